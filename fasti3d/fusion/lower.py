"""From the calls of a ``forward`` to a graph of the engine, for clips of one shape."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from fasti3d.engine.describe.watch import Watch
from fasti3d.engine.graph import Graph, Head, Node, Opaque, Shape, Shapes
from fasti3d.engine.layout import as_map
from fasti3d.fusion.heads import classifier, is_average, is_view
from fasti3d.fusion.program import Call, Program, Ref, mapped, refs
from fasti3d.fusion.rules import Operation, fits, operation

# The clip as the nodes of a graph read it, and as it was given.
CLIP, GIVEN = 0, 1


class UnplannableError(Exception):
    """Why a ``forward`` does not run as a plan: one sentence."""


class Lowered(NamedTuple):
    """A graph for clips of one shape.

    Attributes:
        graph: whose names are the numbers of what is returned.
        shapes: of what torch computes in it.
        output: what is returned, with a ``Ref`` for each value of the graph.
    """

    graph: Graph
    shapes: Shapes
    output: Any

    @property
    def kinds(self) -> tuple[Any, ...]:
        """What tells its graph from those for clips of other shapes."""
        return tuple((type(node), node.out, node.reads) for node in self.graph.nodes)


def lower(root: nn.Module, program: Program, x: Tensor, compute_dtype: torch.dtype) -> Lowered:
    """The graph of a program for clips like ``x``, of which nothing is computed.

    Raises:
        UnplannableError: the order of what is read and overwritten matters, or what a call does is not known
            without running it.
    """
    return _Lowering(root, program, x, compute_dtype).done()


class _Lowering:
    """Nodes as they are found, and what is known of each value: maps of the engine's nodes have a shape, the
    results of torch's operators are computed on fake tensors.
    """

    def __init__(self, root: nn.Module, program: Program, x: Tensor, compute_dtype: torch.dtype) -> None:
        self._root, self._program, self._x, self._compute_dtype = root, program, x, compute_dtype
        self._last = program.last_reads()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._nodes: list[Node] = []
        self._maps: dict[int, Shape] = {}  # by number, of the engine's nodes
        self._fakes: dict[int, Any] = {}  # of all others, and of maps that torch reads
        self._scores: dict[int, Shape] = {}  # by number, of heads, in float32
        self._averages: dict[int, int] = {}  # by number, of which map
        self._shapes: Shapes = {}
        self._numbers = [GIVEN]  # of the results of the calls
        self._outside = {GIVEN}  # values in memory of others
        self._casts: dict[tuple[int, bool], int] = {}
        self._fresh = GIVEN

    def done(self) -> Lowered:
        for at, call in enumerate(self._program.calls, start=1):
            module = self._root.get_submodule(call.target) if call.kind == "call_module" else None
            found = operation(call, module, self._x)
            if isinstance(found, Ref):
                self._numbers.append(self._numbers[found.at])
            elif found is not None and self._take(found, at):
                continue
            elif not self._take_head(call, module, at):
                self._leave(call, module, at)
        output = mapped(self._program.output, Ref, lambda ref: Ref(self._numbers[ref.at]))
        names = {str(ref.at): ref.at for ref in refs(output) if ref.at != GIVEN}
        return Lowered(Graph(tuple(self._nodes), names, CLIP).only(names), self._shapes, output)

    def _take(self, found: Operation, at: int) -> bool:
        """Adds the engine's node for a call, if it can read what that reads."""
        numbers = [self._numbers[ref.at] for ref in found.reads]
        of = {number: self._map(number) for number in numbers}
        try:
            if any(shape is None for shape in of.values()):
                return False
            (shape,) = found.node(-1, numbers).shapes(
                {number: shape for number, shape in of.items() if shape}
            )
        except ValueError:  # another shape of sum, or what torch has an error for
            return False
        if found.in_place:
            self._check_overwritten(numbers[0], at)
        values = [self._for_nodes(number) for number in numbers]
        out = self._new()
        self._nodes.append(found.node(out, values))
        self._maps[out] = shape
        self._numbers.append(out)
        if found.in_place:
            self._replace(numbers[0], out)
        return True

    def _take_head(self, call: Call, module: nn.Module | None, at: int) -> bool:
        """Adds the engine's node for a call that averages a map, or that classifies averages."""
        first = call.args[0] if call.args else None
        if not isinstance(first, Ref):
            return False
        number = self._numbers[first.at]
        shape, layer = self._map(number), classifier(call, module)
        if shape is not None and is_average(call, module, shape):
            averages, out = self._new(), self._new()
            with self._faking():
                result = _bound(call, self._callable(call, module), [0])(self._fake(number))
            self._nodes += [
                Head(averages, self._for_nodes(number), None, name=call.path),
                Opaque(out, (averages,), partial(_averages, result.dim(), result.dtype), name=call.path),
            ]
            self._know(out, result)
            self._numbers.append(out)
            self._averages[out] = number
            return True
        if number not in self._averages:
            return False
        averaged, fake = self._averages[number], self._fakes[number]
        shape = self._map(averaged)
        assert shape is not None
        if is_view(call, module):
            self._leave(call, module, at)
            self._averages[self._numbers[-1]] = averaged
            return True
        if layer is None or fake.shape != shape[:2] or layer.weight.shape[1] != shape[1]:
            return False
        if not fits(self._x, layer.weight):
            return False
        features, scores = self._new(), self._new()
        x = self._for_nodes(averaged)
        self._nodes.append(Head(features, x, None, layer.weight, layer.bias, scores, name=call.path))
        self._scores[scores] = (shape[0], layer.weight.shape[0])
        self._numbers.append(scores)
        return True

    def _leave(self, call: Call, module: nn.Module | None, at: int) -> None:
        """Adds a node that torch runs."""
        numbers = list(dict.fromkeys(self._numbers[ref.at] for ref in refs((call.args, call.kwargs))))
        own = module is not None and not type(module).__module__.startswith("torch.nn.")
        if self._last[at] == 0 and own:
            raise UnplannableError(
                f"nothing reads what {call.path} gives, which may be called for something else"
            )
        xs = tuple(self._for_torch(number) for number in numbers)
        run = _bound(call, self._callable(call, module), [numbers.index(n) for n in self._read(call)])
        fakes = [self._fake(number) for number in numbers]
        before = [_versions(fake) for fake in fakes]
        try:
            if call.kind == "get_attr":
                value = run()
                self._outside.add(self._fresh + 1)
                result = self._mode.from_tensor(value) if isinstance(value, Tensor) else value
            elif own:
                assert module is not None
                result = self._try_out(call, module, fakes, numbers)
            else:
                with self._faking():
                    result = run(*fakes)
        except UnplannableError:
            raise
        except Exception as error:  # whatever a call raises on fake tensors
            raise UnplannableError(
                f"{call.path} cannot be planned ({type(error).__name__}: {error})"
            ) from error
        changed = [i for i, fake in enumerate(fakes) if _versions(fake) != before[i]]
        if changed:
            self._leave_changing(call, xs, run, numbers, changed, result, at)
            return
        for number, fake in zip(numbers, fakes, strict=True):
            if result is fake:
                self._numbers.append(number)
                return
        out = self._new()
        self._nodes.append(Opaque(out, xs, run, name=call.path))
        self._know(out, result)
        self._numbers.append(out)

    def _leave_changing(
        self,
        call: Call,
        xs: tuple[int, ...],
        run: Callable[..., Any],
        numbers: Sequence[int],
        changed: Sequence[int],
        result: Any,
        at: int,
    ) -> None:
        """Adds a node that torch runs, and that overwrites what it reads, on a copy of that."""
        first = changed[0]
        fake = self._fakes[numbers[first]]
        if len(changed) > 1 or not isinstance(fake, Tensor) or (result is not None and result is not fake):
            raise UnplannableError(f"{call.path} overwrites what it reads and gives something else")
        self._check_overwritten(numbers[first], at)
        out = self._new()
        self._nodes.append(Opaque(out, xs, partial(_on_copy, run, first), name=call.path))
        with self._faking():
            self._know(out, fake.clone())
        self._numbers.append(out)
        self._replace(numbers[first], out)

    def _callable(self, call: Call, module: nn.Module | None) -> Callable[..., Any]:
        if call.kind == "call_module":
            assert module is not None
            return module
        if call.kind == "call_method":
            return partial(_call_method, call.target)
        if call.kind == "get_attr":
            path, _, name = call.target.rpartition(".")
            holder = self._root.get_submodule(path)
            if not hasattr(holder, name):
                raise UnplannableError(f"{call.path} is a constant that tracing made")
            return partial(getattr, holder, name)
        function: Callable[..., Any] = call.target
        return function

    def _try_out(self, call: Call, module: nn.Module, fakes: Sequence[Any], numbers: Sequence[int]) -> Any:
        """What a module of the user's own gives, by a copy of it that may keep nothing."""
        tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
        stand_in = copy.deepcopy(module, tensors)
        watch = Watch(stand_in, (), stand_in.modules())
        run = _bound(call, stand_in, [numbers.index(n) for n in self._read(call)])
        with self._faking():
            result = run(*fakes)
        if not watch.holds():
            raise UnplannableError(f"{call.path} ({type(module).__name__}) keeps something from call to call")
        return result

    def _read(self, call: Call) -> list[int]:
        return [self._numbers[ref.at] for ref in refs((call.args, call.kwargs))]

    def _check_overwritten(self, number: int, at: int) -> None:
        """UnplannableError if others than the readers of a value could see it overwritten."""
        where = _storages(self._fakes.get(number))
        for other in {*self._numbers, *self._outside}:
            same = other == number or not where.isdisjoint(_storages(self._fakes.get(other)))
            if same and other in self._outside:
                raise UnplannableError("its forward overwrites the clip, or a tensor of a module")
            if same and other != number and self._last_read(other) >= at:
                raise UnplannableError("its forward overwrites what it later reads under another name")

    def _last_read(self, number: int) -> int:
        return max((self._last[at] for at, n in enumerate(self._numbers) if n == number), default=0)

    def _replace(self, number: int, new: int) -> None:
        """What read an overwritten value reads the new one from here on."""
        self._numbers = [new if n == number else n for n in self._numbers]

    def _map(self, number: int) -> Shape | None:
        """The shape of a value that nodes of the engine can read."""
        if number == GIVEN:
            return tuple(self._x.shape)
        if number in self._maps or number in self._scores:
            return self._maps.get(number)
        fake, x = self._fakes[number], self._x
        if (
            not isinstance(fake, Tensor)
            or fake.layout != torch.strided
            or (fake.dim(), fake.dtype, fake.device) != (5, x.dtype, x.device)
        ):
            return None
        return tuple(fake.shape)

    def _fake(self, number: int) -> Any:
        if number not in self._fakes:
            x, layout = self._x, torch.channels_last_3d
            with self._faking():
                like = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
                if number in self._scores:
                    like = like.new_empty(self._scores[number])
                elif number != GIVEN:
                    like = like.new_empty(self._maps[number]).contiguous(memory_format=layout)
            self._fakes[number] = like
        return self._fakes[number]

    def _for_nodes(self, number: int) -> int:
        """The value as nodes of the engine read it."""
        if number == GIVEN:
            return CLIP
        if number in self._maps:
            return number
        return self._cast(number, as_map, self._compute_dtype)

    def _for_torch(self, number: int) -> int:
        """The value as torch reads it."""
        own = torch.float32 if number in self._scores else self._compute_dtype
        if own == self._x.dtype or not (number in self._maps or number in self._scores):
            return number
        return self._cast(number, Tensor.to, self._x.dtype)

    def _cast(self, number: int, change: Callable[[Tensor, torch.dtype], Tensor], dtype: torch.dtype) -> int:
        key = number, change is as_map
        if key not in self._casts:
            out = self._casts[key] = self._new()
            self._nodes.append(Opaque(out, (number,), partial(_changed_to, change, dtype), name="cast"))
            self._shapes[out] = self._map(number) or ()
        return self._casts[key]

    def _know(self, number: int, result: Any) -> None:
        self._fakes[number] = result
        self._shapes[number] = tuple(result.shape) if isinstance(result, Tensor) else ()

    def _new(self) -> int:
        self._fresh += 1
        return self._fresh

    @contextmanager
    def _faking(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._mode)
            yield


def _bound(call: Call, function: Callable[..., Any], places: Sequence[int]) -> Callable[..., Any]:
    """A function of the values that a call reads: ``places`` says which of them each of its arguments is."""
    plain = not call.kwargs and all(isinstance(argument, Ref) for argument in call.args)
    if plain and list(places) == list(range(len(call.args))):
        return function
    order = iter(places)
    args, kwargs = mapped((call.args, call.kwargs), Ref, lambda ref: Ref(next(order)))

    def run(*xs: Any) -> Any:
        return function(
            *mapped(args, Ref, lambda ref: xs[ref.at]), **mapped(kwargs, Ref, lambda ref: xs[ref.at])
        )

    return run


def _averages(dim: int, dtype: torch.dtype, features: Tensor) -> Tensor:
    """Features (N, C, 1) as torch has averages."""
    return features.to(dtype).reshape(*features.shape[:2], *[1] * (dim - 2))


def _call_method(name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(value, name)(*args, **kwargs)


def _on_copy(run: Callable[..., Any], place: int, *xs: Any) -> Tensor:
    """What a call makes of a copy of one of its values, which it overwrites."""
    own: Tensor = xs[place].clone()
    run(*xs[:place], own, *xs[place + 1 :])
    return own


def _changed_to(change: Callable[[Tensor, torch.dtype], Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
    return change(x, dtype)


def _versions(value: Any) -> list[int]:
    return [t._version for t in tree_leaves(value) if isinstance(t, Tensor)]


def _storages(value: Any) -> set[int]:
    return {t.untyped_storage()._cdata for t in tree_leaves(value) if isinstance(t, Tensor)}
