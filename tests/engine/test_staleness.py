"""The fused weights are derived from the model's: every change of those must show in the next output."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from i3d_making import SMALL, WITH_HEAD, make_i3d, make_warm_i3d, ordinary, random_clip
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import I3D
from fasti3d.reference import Unit3D

NAME = "Mixed_3c"

pytestmark = pytest.mark.usefixtures("narrow")


def run(model: I3D, x: Tensor, name: str = NAME) -> Tensor:
    with torch.no_grad():
        y = model.forward_endpoints(x, [name])[name]
    assert model._plan is not None
    return y


def unit(model: I3D) -> Unit3D:
    return model.Mixed_3b.b1b


def no_grad(edit: Callable[[I3D], object]) -> Callable[[I3D], object]:
    def edited(model: I3D) -> None:
        with torch.no_grad():
            edit(model)

    return edited


def train_a_step(model: I3D) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.forward_endpoints(random_clip(2, *SMALL[1:], seed=5), [NAME])[NAME].square().mean().backward()
    optimizer.step()


def move_statistics(model: I3D) -> None:
    model.train()
    with torch.no_grad():
        model.forward_endpoints(5 * random_clip(2, *SMALL[1:], seed=5), [NAME])
    model.eval()


def swap_filters(model: I3D) -> None:
    weight = unit(model).conv3d.weight.data
    weight[[0, 1]] = weight[[1, 0]]


def shift_the_epsilon(model: I3D) -> None:
    unit(model).bn.eps = 0.5


def replace_the_block(model: I3D) -> None:
    model.Mixed_3b = make_i3d(seed=3).Mixed_3b


def assign_state(model: I3D) -> None:
    model.load_state_dict(make_i3d(seed=3).state_dict(), assign=True)


def edit_through_numpy(model: I3D) -> None:
    unit(model).conv3d.weight.detach().numpy()[3] *= 2


def edit_in_another_thread(model: I3D) -> None:
    thread = threading.Thread(target=lambda: unit(model).bn.bias.data.add_(1))
    thread.start()
    thread.join()


EDITS: dict[str, Callable[[I3D], object]] = {
    "load_state_dict": lambda m: m.load_state_dict(make_i3d(seed=3).state_dict()),
    "load_state_dict by assignment": assign_state,
    "optimizer step": train_a_step,
    "statistics moved in training mode": move_statistics,
    "weight": no_grad(lambda m: unit(m).conv3d.weight.mul_(2)),
    "gamma": no_grad(lambda m: unit(m).bn.weight.mul_(2)),
    "beta": no_grad(lambda m: unit(m).bn.bias.add_(1)),
    "running mean": no_grad(lambda m: unit(m).bn.running_mean.add_(1)),
    "running variance": no_grad(lambda m: unit(m).bn.running_var.mul_(3)),
    "weight through .data": lambda m: unit(m).conv3d.weight.data.mul_(2),
    "gamma through .data": lambda m: unit(m).bn.weight.data.mul_(2),
    "beta through .data": lambda m: unit(m).bn.bias.data.add_(1),
    "running mean through .data": lambda m: unit(m).bn.running_mean.data.add_(1),
    "running variance through .data": lambda m: unit(m).bn.running_var.data.mul_(3),
    "one value through .data": lambda m: unit(m).conv3d.weight.data[0, 0, 1, 1, 1].add_(1),
    "negated weight": lambda m: unit(m).conv3d.weight.data.neg_(),
    "negated filter": lambda m: unit(m).conv3d.weight.data[5].neg_(),
    "negated gamma": lambda m: unit(m).bn.weight.data.neg_(),
    "negated beta": lambda m: unit(m).bn.bias.data.neg_(),
    "negated mean": lambda m: unit(m).bn.running_mean.data.neg_(),
    "swapped filters": swap_filters,
    "reassigned parameter": lambda m: setattr(
        unit(m).conv3d, "weight", nn.Parameter(2 * unit(m).conv3d.weight.detach())
    ),
    "reassigned .data": lambda m: setattr(unit(m).bn.bias, "data", unit(m).bn.bias.data + 1),
    "reassigned buffer": lambda m: setattr(unit(m).bn, "running_mean", unit(m).bn.running_mean + 1),
    "reset statistics": lambda m: unit(m).bn.reset_running_stats(),
    "weights through one vector": no_grad(
        lambda m: nn.utils.vector_to_parameters(
            1.1 * nn.utils.parameters_to_vector(m.parameters()), m.parameters()
        )
    ),
    "through numpy": edit_through_numpy,
    "in another thread": edit_in_another_thread,
    "epsilon": shift_the_epsilon,
    "replaced block": replace_the_block,
    "rounded to half precision and back": lambda m: m.half().float(),
    "rounded to bfloat16 and back": lambda m: m.to(torch.bfloat16).to(torch.float32),
    "in inference mode": lambda m: torch.inference_mode()(unit(m).bn.bias.data.add_)(1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_shows_in_the_next_output(edit: str) -> None:
    model, x = make_warm_i3d(), random_clip(*SMALL)
    plan = model._plan
    before = run(model, x)
    assert model._plan is plan
    assert_close("i3d", before, ordinary(model, x, NAME)[NAME])
    EDITS[edit](model)
    after = run(model, x)
    assert not torch.equal(after, before)
    assert_close("i3d", after, ordinary(model, x, NAME)[NAME])


def test_edits_of_the_classifier() -> None:
    model, x = make_i3d(), random_clip(*WITH_HEAD)
    seen = [run(model, x, "Logits")]
    weight, bias = model.logits.conv3d.weight, model.logits.conv3d.bias
    for edit in (
        lambda: bias.data.add_(1),
        lambda: bias.data.neg_(),
        lambda: weight.data.mul_(2),
        lambda: model.replace_logits(7),
    ):
        edit()
        y = run(model, x, "Logits")
        assert_close("i3d", y, ordinary(model, x, "Logits")["Logits"])
        assert all(not torch.equal(y, other) for other in seen)
        seen.append(y)
    model.replace_logits(3)
    assert run(model, x, "Logits").shape == (1, 3)


def test_undoing_an_edit_gives_the_first_result_again() -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    before = run(model, x)
    kept = copy.deepcopy(model.state_dict())
    unit(model).conv3d.weight.data.mul_(2)
    changed = run(model, x)
    model.load_state_dict(kept)
    assert torch.equal(run(model, x), before)
    assert not torch.equal(changed, before)


def test_half_precision_and_modes_in_turn() -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    for dtype in (torch.float32, torch.float16, torch.float32, torch.bfloat16, torch.float32):
        model.to(dtype)
        y = run(model, x.to(dtype))
        assert y.dtype == dtype
        model.train()
        model.eval()
        assert torch.equal(run(model, x.to(dtype)), y)
        unit(model).bn.bias.data.add_(1)
        assert not torch.equal(run(model, x.to(dtype)), y)


def test_unchanged_weights_are_prepared_once() -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    run(model, x)
    plan = model._plan
    run(model, x)
    model.train()
    model.eval()
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    run(model, random_clip(2, 3, 16, 40, 40))
    assert model._plan is plan


def test_copies_and_pickles_carry_weights_only() -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    fresh = len(pickle.dumps(model))
    y = run(model, x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    packed = pickle.dumps(model)
    assert len(packed) < 1.01 * fresh
    for other in (
        copy.deepcopy(model),
        copy.copy(model),
        pickle.loads(packed),
        torch.load(file, weights_only=False),
    ):
        assert type(other) is I3D
        assert other._plan is None
        assert torch.equal(run(other, x), y)
    assert model._plan is not None
    other = copy.deepcopy(model)
    unit(other).bn.bias.data.add_(1)
    assert not torch.equal(run(other, x), y)
    assert torch.equal(run(model, x), y)


def test_running_leaves_the_state_dict_alone() -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    before = {name: (t.clone(), t.data_ptr(), t._version) for name, t in model.state_dict().items()}
    keys = set(vars(model))
    run(model, x)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, t in after.items():
        value, pointer, version = before[name]
        assert torch.equal(t, value)
        assert (t.data_ptr(), t._version) == (pointer, version)
    assert set(vars(model)) == keys
    assert not dict(model.named_buffers()).keys() - before.keys()


def test_two_models_do_not_share_weights() -> None:
    x = random_clip(*SMALL)
    first, second = make_i3d(), make_i3d(seed=1)
    results = [run(first, x), run(second, x), run(first, x)]
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_threads_share_a_model() -> None:
    model = make_i3d()
    clips = [random_clip(1, 3, 9, 33, 33 + seed, seed=seed) for seed in range(4)]
    expected = [run(model, x) for x in clips]
    model._plan = None  # so that all threads find it missing at once
    model._plans.clear()
    barrier = threading.Barrier(4)

    def work(i: int) -> bool:
        barrier.wait()
        return all(torch.equal(run(model, clips[i]), expected[i]) for _ in range(4))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_a_thread_may_change_one_model_while_others_run_another() -> None:
    steady, changing = make_i3d(), make_i3d(seed=1)
    x = random_clip(*SMALL)
    expected = run(steady, x)
    stop = threading.Event()
    wrong: list[str] = []

    def change() -> None:
        before = run(changing, x)
        for _ in range(4):
            unit(changing).bn.bias.data.add_(1)
            after = run(changing, x)
            if torch.equal(after, before):
                wrong.append("an edit did not show")
            before = after
        stop.set()

    def use() -> None:
        while not stop.is_set():
            if not torch.equal(run(steady, x), expected):
                wrong.append("another model's weights")

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(change), pool.submit(use), pool.submit(use)]:
            future.result()
    assert wrong == []


def test_a_model_being_rebuilt_gives_right_results_meanwhile() -> None:
    model, x = make_i3d(), random_clip(*SMALL)
    expected = run(model, x)
    stop = threading.Event()

    def rebuild() -> None:
        for _ in range(4):
            model._plan = None
            model._plans.clear()
            with torch.no_grad():
                model.forward_endpoints(x, ["Conv3d_1a_7x7"])
        stop.set()

    def use() -> bool:
        right = True
        while not stop.is_set():
            with torch.no_grad():
                right &= torch.equal(model.forward_endpoints(x, [NAME])[NAME], expected)
        return right

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(use), pool.submit(use)]
        pool.submit(rebuild).result()
        assert all(future.result() for future in futures)


def test_a_network_and_its_plan_go_without_the_garbage_collector() -> None:
    """No cycle keeps their memory: weights and packed weights."""
    model, x = make_i3d(), random_clip(*SMALL)
    run(model, x)
    assert model._plan is not None
    gone = weakref.ref(model), weakref.ref(model._plan.plan)
    gc.disable()
    try:
        del model
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()
