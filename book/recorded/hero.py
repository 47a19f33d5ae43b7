"""Make the book's opening picture, ``book/_static/hero.png``: noise becoming digits, one row for each of five moments.

python book/recorded/hero.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import invkit as ik
from invkit import show
from invkit.core.files import atomic_path
from invkit.core.rng import seeded
from invkit.transforms.resize import initial_images

STEPS = {3: "after 3 steps", 10: "10 steps", 40: "40 steps", 300: "300 steps"}


def main() -> None:
    """Invert a digit network; keep the noise that it starts from and four moments of the run."""
    target = ik.load_or_train("bn_cnn", ik.load_data("digits"))
    generator = seeded(3)
    noise = initial_images(100, target.spec.shape, generator)
    rows = {"noise": noise[20:30]}

    def keep(step: ik.Step) -> None:
        taken = step.index + 1  # the first call comes after the first step
        if taken in STEPS:
            rows[STEPS[taken]] = step.images[20:30].cpu().clone()

    config = ik.DeepInversionConfig.for_profile("book", steps=300)
    ik.deep_inversion(target, torch.arange(100) % 10, config, generator=generator, init=noise, callbacks=[keep])
    figure = show.image_rows(rows, [str(k) for k in range(10)], columns=10)
    with atomic_path(Path(__file__).parents[1] / "_static" / "hero.png") as temporary:
        figure.savefig(temporary, dpi=160)


if __name__ == "__main__":
    main()
