"""A question about pictures that a page asks without a kernel, and without a script.

Each round shows an image and two candidates, one of them right. Style sheets alone tell whether a choice was right and
count the score; where there are none, every round keeps its answer in a fold.
"""

from __future__ import annotations

import hashlib
import html
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invkit.core.rng import seeded
from invkit.show.grids import check_images
from invkit.show.picture import data_uri

SIZE = 96  # CSS pixels of a tile, or what is nearest to it by a whole factor
STYLE = """<style>
.inv-quiz fieldset { display: inline-block; margin: .4rem; padding: .4rem .8rem; border: 1px solid #999; }
.inv-quiz legend { float: none; width: auto; font-size: .9rem; }
.inv-quiz img { image-rendering: pixelated; display: block; margin: .2rem auto; }
.inv-quiz label { display: inline-block; margin: .2rem .4rem; text-align: center; cursor: pointer; }
.inv-quiz { counter-reset: right tried; }
.inv-quiz input.right:checked { counter-increment: right tried; }
.inv-quiz input.wrong:checked { counter-increment: tried; }
.inv-quiz .told { display: none; font-weight: 600; }
.inv-quiz fieldset:has(input.right:checked) .told.right { display: block; }
.inv-quiz fieldset:has(input.wrong:checked) .told.wrong { display: block; }
.inv-quiz .score::after { content: " " counter(right) " of " counter(tried); font-weight: 600; }
</style>"""


class Quiz:
    """What :func:`quiz` returns: rounds for the end of a notebook's cell."""

    def __init__(self, rounds: list[tuple[bytes, bytes, bytes, bool]], question: str) -> None:
        self.rounds, self.question = rounds, question

    def _repr_html_(self) -> str:
        digest = hashlib.sha256(b"".join(image for image, *_ in self.rounds)).hexdigest()
        name = digest[:8]  # one for each quiz of a page
        body = "".join(self._round(number, name) for number in range(len(self.rounds)))
        score = '<p class="score" aria-hidden="true">Right so far:</p>'
        return f'{STYLE}<div class="inv-quiz"><p>{html.escape(self.question)}</p>{body}{score}</div>'

    def _round(self, number: int, name: str) -> str:
        image, first, second, first_is_right = self.rounds[number]
        choices = ""
        for letter, candidate, right in (("A", first, first_is_right), ("B", second, not first_is_right)):
            kind = "right" if right else "wrong"
            button = f'<input type="radio" name="quiz-{name}-{number}" class="{kind}" autocomplete="off">'
            choices += f"<label>{_tile(candidate, f'Candidate {letter}')}{button} {letter}</label>"
        answer = "A" if first_is_right else "B"
        told = f'<p class="told right">Yes, {answer}.</p><p class="told wrong">No, it is {answer}.</p>'
        fold = f"<details><summary>Answer</summary>{answer}</details>"
        head = f"<legend>Round {number + 1}</legend>{_tile(image, f'The image of round {number + 1}')}"
        return f"<fieldset>{head}{choices}{told}{fold}</fieldset>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": f"{self.question} {len(self.rounds)} rounds", "text/html": self._repr_html_()}


def quiz(images: Tensor, right: Tensor, wrong: Tensor, *, question: str, seed: int = 0) -> Quiz:
    """Ask of each image which of two candidates is the right one, in an order drawn by ``seed``.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        right: The right candidate of each, of the same number.
        wrong: The wrong one.
        question: What is asked.
        seed: Of the candidates' order.

    Returns:
        The quiz, which works in Jupyter and in a page, without a kernel or a script.

    Raises:
        ValueError: For images that :func:`~invkit.show.grids.image_grid` refuses, for unequal numbers, and for an
            empty question.

    >>> dots = torch.rand(2, 1, 8, 8)
    >>> len(quiz(dots, dots, dots.flip(0), question="Which is the same?").rounds)
    2
    """
    if not question.strip():
        raise ValueError("quiz: question is empty; say what a reader is to find")
    parts = {"images": images, "right": right, "wrong": wrong}
    encoded = {name: _encode(batch, name) for name, batch in parts.items()}
    counts = {name: len(batch) for name, batch in encoded.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"quiz: each image needs one right and one wrong candidate, not {counts}")
    order = torch.rand(len(encoded["images"]), generator=seeded(seed)) < 0.5
    rounds = []
    for image, good, bad, first in zip(*encoded.values(), order.tolist(), strict=True):
        rounds.append((image, *((good, bad) if first else (bad, good)), first))
    return Quiz(rounds, question)


def _encode(images: Tensor, name: str) -> list[bytes]:
    """Each image as PNG, enlarged by a whole factor."""
    found = []
    for pixels in check_images(images, f"quiz: {name}"):
        levels = (np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels) * 255
        image = Image.fromarray(levels.round().astype("uint8"))
        factor = max(round(SIZE / max(image.size)), 1)
        buffer = io.BytesIO()
        image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(buffer, "png")
        found.append(buffer.getvalue())
    return found


def _tile(data: bytes, alt: str) -> str:
    return f'<img src="{data_uri(data)}" alt="{html.escape(alt)}">'
