"""The probe of an inverse: an exact inverse loses nothing, and each number by hand where it is not."""

import pytest
import torch
from torch import nn

from invkit.analysis.logit_probe import LogitProbe
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import Split

SPEC = ImageSpec(channels=1, size=(16, 16), mean=(0.0,), std=(1.0,), classes=("left", "right"))
PLAIN = torch.tensor([[[200, 40], [20, 160]], [[120, 80], [240, 0]]]).view(4, 2)  # grey of both halves
LABELS = torch.tensor([0, 1, 1, 0])  # the third is brighter on the left


def halves(values):
    return values[:, None, None, :].repeat_interleave(8, 3).expand(-1, 1, 16, 16)


class Halves(nn.Module):
    """Its two logits are the mean grey of the halves: all that there is to know of the images here."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x):
        return self.linear(x.unflatten(3, (2, 8)).mean((1, 2, 4)))


class Exact:
    """Gives the image of its logits back; noise changes the upper row, up in one column as much as down in the next."""

    def __call__(self, logits):
        return halves(logits).clamp(0, 1)

    def draws(self, logits, count, *, generator=None):
        images = self(logits).repeat(count, 1, 1, 1, 1)
        signs = torch.tensor([1.0, -1.0]).repeat(8)
        images[1:, :, :, 0] = (images[1:, :, :, 0] + 0.1 * signs).clamp(0, 1)
        return images


@pytest.fixture(scope="module")
def target():
    return Target(Halves(), SPEC, "halves")


@pytest.fixture(scope="module")
def split():
    return Split(pixels=halves(PLAIN).to(torch.uint8).contiguous(), labels=LABELS)


@pytest.fixture(scope="module")
def probe(target, split):
    return LogitProbe(target, Exact(), split, target)


def test_an_exact_inverse_loses_nothing(probe):
    scores = probe.scores()
    assert scores["psnr"] == float("inf") or scores["psnr"] > 100
    assert scores["agreement"] == 1
    assert scores["logits"] == pytest.approx(0, abs=1e-6)
    assert scores["verifier"] == 0.75  # the third image is not what its label says
    assert scores["Fréchet"] == pytest.approx(0, abs=1e-9)


def test_another_image_has_other_logits(probe):
    scores = probe.scores(probe.real[[1, 0, 2, 3]])
    z = PLAIN / 255
    assert scores["agreement"] == 0.5
    step = 2 * (z[0] - z[1]).norm() / 4 / torch.pdist(z).mean()
    assert scores["logits"] == pytest.approx(float(step), rel=1e-5)


def test_guesses_without_an_inverse(probe, split):
    guesses = probe.baselines(split)
    torch.testing.assert_close(guesses["nearest logits"], probe.real)
    means = torch.stack([probe.real[k == LABELS].mean(0) for k in (0, 1)])
    torch.testing.assert_close(guesses["class mean"], means[[0, 1, 0, 0]])


def test_noise_that_the_target_ignores(probe):
    noise = probe.under_noise(seeded(0))
    assert noise["images"] > 0.01
    assert noise["logits"] < 0.01  # but for what black and rounding cut off
    assert noise["images, borrowed"] == pytest.approx(noise["images"], rel=0.2)
    assert noise["ratio"] == pytest.approx(noise["logits"] / noise["logits, borrowed"])


def test_images_answer_as_their_logits_do(probe):
    sensitivity = probe.sensitivity(0.25, seeded(0))
    assert sensitivity["interpolated"] == pytest.approx(1.0, rel=0.2)
    assert set(sensitivity) == {"shifted", "scaled", "perturbed", "interpolated"}


def test_attacks_stay_in_their_ball_and_other_images_can_be_asked_about(probe, split):
    attacked = probe.attacked(0.1, seeded(0))
    assert (attacked - probe.real).abs().max() <= 0.1 + 1e-6
    assert probe.under_change(attacked)["distance"] > 0
    assert len(probe.with_images(split[:2]).reconstructions) == 2


def test_changed_images_come_back_changed(probe):
    still, other = probe.under_change(probe.real), probe.under_change(probe.real.flip(3))
    assert still["distance"] == pytest.approx(0, abs=1e-5)
    assert still["verifier"] == still["verifier, changed"] == 0.75
    assert other["verifier"] == other["verifier, changed"] == 0.25
    assert other["distance"] > 0.5


def test_other_kinds_of_images(probe):
    flat, bars = torch.full((3, 1, 16, 16), 0.2), probe.real.transpose(2, 3)[:3]
    flat[1], flat[2] = 0.4, 0.6
    assert probe.on_other_images(flat)["psnr"] > 60
    assert probe.on_other_images(flat)["psnr to another"] < probe.on_other_images(flat)["psnr"]
    assert probe.on_other_images(bars)["psnr"] < 30  # the halves' means say nothing of the upper and the lower one


def test_right_and_wrong_answers_apart(probe):
    assert probe.misclassified().tolist() == [False, False, True, False]
    rows = probe.by_answer()
    assert rows["right"]["images"] == 3
    assert rows["wrong"] == {
        "images": 1, "psnr": rows["wrong"]["psnr"], "distance": pytest.approx(0, abs=1e-6),
        "true class": 0, "answered class": 1,
    }  # fmt: skip


def test_an_inverse_without_noise_says_so(target, split):
    with pytest.raises(ValueError, match="takes no noise"):
        LogitProbe(target, lambda logits: halves(logits), split, target).under_noise(seeded(0))
