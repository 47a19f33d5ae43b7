"""Make the book's opening picture, ``book/_static/hero.png``: noise becoming digits, one row for each of five moments.

python book/recorded/hero.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.core.files import atomic_path
from invkit.transforms.resize import initial_images

ROWS = {3: "after 3 steps", 10: "10 steps", 40: "40 steps", 300: "300 steps"}


@recorded_run(smoke={"steps": 3})
def hero(run: Run, *, steps: int = 300) -> None:
    """Invert a digit network; keep the noise that it starts from and four moments of the run."""
    training = ik.ClassifierConfig.for_network("bn_cnn", **run.trial)
    target = ik.load_or_train("bn_cnn", ik.load_data("digits"), training)
    generator = ik.seeded(3)
    noise = initial_images(100, target.spec.shape, generator)
    rows = {"noise": noise[20:30]}

    def keep(step: ik.Step) -> None:
        taken = step.index + 1  # the first call comes after the first step
        if taken in ROWS:
            rows[ROWS[taken]] = step.images[20:30].cpu().clone()

    config = ik.DeepInversionConfig.for_profile("book", steps=steps)
    ik.deep_inversion(target, torch.arange(100) % 10, config, generator=generator, init=noise, callbacks=[keep])
    figure = show.image_rows(rows, [str(k) for k in range(10)], columns=10)
    folder = run.folder or Path(__file__).parents[1] / "_static"
    with atomic_path(folder / "hero.png") as temporary:
        figure.savefig(temporary, dpi=160)


if __name__ == "__main__":
    command_line(hero)
