"""Likeness of recovered images: by hand, in order, and refused where it makes no sense."""

import pytest
import torch
from torch import nn

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.metrics.judge import PairJudge

SPEC = ImageSpec(channels=1, size=(16, 16), mean=(0.0,), std=(1.0,), classes=("dark", "light"))
REAL = (torch.rand(6, 1, 16, 16, generator=seeded(0)) * 0.4 + torch.tensor([0.0, 0.6] * 3).view(6, 1, 1, 1)).round(
    decimals=2
)
LABELS = torch.tensor([0, 1] * 3)


@pytest.fixture(scope="module")
def verifier():
    """Reads light from dark by the mean grey."""
    linear = nn.Linear(256, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 256) / 256)
        linear.bias.copy_(torch.tensor([0.5, -0.5]))
    return Target(nn.Sequential(nn.Flatten(), linear), SPEC, "grey")


def test_psnr_by_hand_and_its_spread(verifier):
    like = PairJudge(real=torch.zeros(2, 1, 16, 16), labels=LABELS[:2], verifiers={"grey": verifier})
    made = torch.zeros(2, 1, 16, 16)
    made[0], made[1] = 51 / 255, 102 / 255
    torch.testing.assert_close(like.each(made), torch.tensor([0.2, 0.4]).log10() * -20, atol=1e-4, rtol=0)
    assert like(made)["psnr sd"] == pytest.approx(10 * torch.tensor(2.0).log10().item(), abs=1e-3)


def test_worse_images_score_worse_in_everything(verifier):
    like = PairJudge(real=REAL, labels=LABELS, verifiers={"grey": verifier})
    near, far = like(REAL), like(REAL.flip(0))
    assert near["grey"] == 1
    assert far["grey"] == 0
    assert near["psnr"] > far["psnr"]
    assert near["ssim"] > far["ssim"]
    assert near["distance"] < 0.02 < far["distance"]


def test_what_does_not_match_is_refused(verifier):
    like = PairJudge(real=REAL, labels=LABELS, verifiers={"grey": verifier})
    with pytest.raises(ValueError, match="do not match"):
        like(REAL[:3])
    with pytest.raises(ValueError, match="6 images for 2 labels"):
        PairJudge(real=REAL, labels=LABELS[:2], verifiers={"grey": verifier})
    with pytest.raises(ValueError, match="verifier"):
        PairJudge(real=REAL, labels=LABELS, verifiers={})
