"""Runs fasti3d as it was installed, beside PyTorch's own kernels; to be called in a folder without sources.

    python -I smoke.py [REQUIRED]

REQUIRED is ``compiled`` where the wheel has C++ kernels and ``pure`` where it has none.
"""

from __future__ import annotations

import sys

import torch

import fasti3d
from fasti3d.runtime import extension


def main(required: str = "compiled") -> None:
    if extension.load_error() is not None:
        raise SystemExit(extension.load_error())
    info = extension.build_info()
    if (required == "compiled") != (info is not None):
        raise SystemExit(
            f"the extension is {'not built' if info is None else 'built'}, and was to be {required}"
        )
    torch.manual_seed(0)
    plain, model = fasti3d.reference.I3D(7).eval(), fasti3d.I3D(7).eval()
    for part in plain.modules():
        if isinstance(part, torch.nn.Conv3d):  # else nothing of the clip reaches the logits
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    model.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 9, 200, 200) * 2 - 1
    with torch.no_grad():
        logits = plain(x)
        error = float((model(x) - logits).abs().max() / logits.std())
    flow = fasti3d.tvl1(torch.rand(40, 50), torch.rand(40, 50))
    if not error < 1e-4 or not flow.isfinite().all():
        raise SystemExit(f"wrong: logits are off by {error}, flow is finite: {bool(flow.isfinite().all())}")
    print(
        f"fasti3d {fasti3d.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}:", end=" "
    )
    print(f"{extension.instruction_set() or 'references'}, logits off by {error:.0e} of their spread")


if __name__ == "__main__":
    main(*sys.argv[1:])
