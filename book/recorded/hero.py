"""Make the book's opening picture, ``book/_static/hero.png``: noise becoming digits, one row for each of five moments.

python book/recorded/hero.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import invkit as ik
from invkit import show
from invkit.runtime import atomic_path, seeded

MOMENTS = {0: "noise", 3: "after 3 steps", 10: "10 steps", 40: "40 steps", 299: "300 steps"}


def main() -> None:
    """Invert a digit network and keep five moments of the run."""
    target = ik.load_or_train("bn_cnn", ik.load_data("digits"))
    frames: dict[int, torch.Tensor] = {}

    def keep(step: ik.Step) -> None:
        if step.index in MOMENTS:
            frames[step.index] = step.images.clone()

    config = ik.DeepInversionConfig.for_profile("book", steps=300)
    ik.deep_inversion(target, torch.arange(100) % 10, config, generator=seeded(3), callbacks=[keep])
    rows = {name: frames[step][20:30] for step, name in MOMENTS.items()}
    figure = show.image_rows(rows, [str(k) for k in range(10)], columns=10)
    with atomic_path(Path(__file__).parents[1] / "_static" / "hero.png") as temporary:
        figure.savefig(temporary, dpi=160)


if __name__ == "__main__":
    main()
