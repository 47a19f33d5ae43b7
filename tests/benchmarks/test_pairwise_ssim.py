"""The SSIM of all pairs in units of torchmetrics', one image against all others at a time; by ``make bench``."""

from __future__ import annotations

import pytest
import torch
from alternating import alternate, report
from torchmetrics.functional.image import structural_similarity_index_measure

from invkit.core.rng import seeded
from invkit.metrics.pairwise_ssim import pairwise_ssim

CASES = {"16 pixels, grey": (1, 16, 40, 300), "32 pixels, colour": (3, 32, 10, 100), "224 pixels": (3, 224, 2, 16)}


@pytest.mark.parametrize("name", CASES)
def test_pairwise_ssim(benchmark, name):
    channels, size, n, m = CASES[name]
    images, others = (torch.rand(k, channels, size, size, generator=seeded(k)) for k in (n, m))

    def unit() -> None:
        for image in images:
            structural_similarity_index_measure(image.expand_as(others), others, data_range=1.0, reduction="none")

    parts = {"unit": unit, "step": lambda: pairwise_ssim(images, others)}
    report(benchmark, f"{name}, {n} x {m}", alternate(parts))
    benchmark.pedantic(parts["step"], rounds=2, warmup_rounds=0)
