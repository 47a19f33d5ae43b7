"""Check that torch and torchvision were built for each other; say how to mend it where they were not.

A torch of one build (say CPU only) beside a torchvision of another imports without complaint, and then
has none of its compiled operators. So one of them is called.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version


def installed(name: str) -> str:
    """Version of a distribution, or the word 'missing'."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def call_an_operator() -> None:
    """Run non-maximum suppression on two boxes: it exists only where the pair matches."""
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
    kept = nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    if kept != [0]:
        raise RuntimeError(f"torchvision.ops.nms kept boxes {kept}, should have kept [0]")


def main() -> int:
    """Exit status 0 where the pair works, 1 with the remedy where it does not."""
    pair = f"torch {installed('torch')} and torchvision {installed('torchvision')}"
    try:
        call_an_operator()
    except Exception as exc:  # the failure takes many shapes: ImportError, RuntimeError, OSError
        print(
            f"set-up: {pair} do not work together: {type(exc).__name__}: {exc}\n"
            "They must come from the same index as a matching pair. To mend it:\n"
            f"  {sys.executable} -m pip uninstall -y torch torchvision\n"
            f"  {sys.executable} -m pip install torch torchvision\n"
            "or give both commands the same --index-url, then run make again.",
            file=sys.stderr,
        )
        return 1
    print(f"set-up: {pair} are a matching pair")
    return 0


if __name__ == "__main__":
    sys.exit(main())
