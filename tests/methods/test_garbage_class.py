"""The garbage class: its weights and its growth by hand, the control, the bits, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.data.datasets import DataSet, Split
from invkit.methods.garbage_class import GarbageConfig, GarbageLearner, train_with_garbage, with_garbage
from invkit.methods.network_inversion import NetworkInversion, NetworkInversionConfig

SPEC = ImageSpec(channels=1, size=(8, 8), mean=(0.3,), std=(0.3,), classes=("left", "right", "up"))
INVERSION = NetworkInversionConfig(batch_size=8, width=4, latent=4, lr=0.01)


def bars(n, seed):
    """Bright bars on the left, on the right or above."""
    labels = torch.arange(n) % 3
    images = 0.2 * torch.rand(n, 1, 8, 8, generator=seeded(seed))
    images[labels == 0, :, :, :3] += 0.7
    images[labels == 1, :, :, 5:] += 0.7
    images[labels == 2, :, :3] += 0.7
    return Split(pixels=(255 * images).byte(), labels=labels)


DATA = DataSet(name="bars", spec=SPEC, train=bars(96, 0), test=bars(30, 1), heldout=bars(30, 2))


def network(classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()]
        return nn.Sequential(*first, nn.Linear(24, classes))


def config(**change):
    small = {"steps": 24, "warmup": 2, "batch_size": 16, "noise": 20, "per_class": 4, "inversion_steps": 3}
    return GarbageConfig(**small | {"shift": 0, "lr": 0.02} | change)


def learner(**change):
    return GarbageLearner(
        network(), with_garbage(SPEC), DATA.train.labels, config(**change), INVERSION,
        generator=seeded(0), device=torch.device("cpu"),
    )  # fmt: skip


def test_the_weights_follow_the_counts():
    own = learner()
    torch.testing.assert_close(own.class_weights(), torch.tensor([116 / 128, 116 / 128, 116 / 128, 116 / 80]))
    own.bank = own.bank.repeat(4, 1, 1, 1)
    torch.testing.assert_close(own.class_weights()[-1], torch.tensor(176 / 320))
    logits, labels = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 3, 3, 3])
    found = own.losses(torch.zeros(6, 1, 8, 8), labels, logits)["cross_entropy"]
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.0)
    hard = learner(label_smoothing=0.0)
    hard.bank = own.bank
    by_hand = (hard.class_weights()[labels] * each).sum() / hard.class_weights()[labels].sum()
    torch.testing.assert_close(hard.losses(torch.zeros(6, 1, 8, 8), labels, logits)["cross_entropy"], by_hand)
    assert found > 0


@pytest.mark.parametrize("source", ["inversion", "noise"])
def test_the_garbage_grows_after_each_epoch(source):
    trained, result = train_with_garbage(
        network(), DATA, config(source=source), INVERSION, generator=seeded(0), device="cpu"
    )
    # 96 images in batches of 16: epochs end at steps 6, 12, 18; after the last there is nothing left to teach
    assert len(trained.garbage) == 20 + 3 * 3 * 4
    assert 0 <= trained.garbage.min() <= trained.garbage.max() <= 1
    assert (trained.inverter is None) == (source == "noise")
    assert trained.target.spec.classes[-1] == "garbage"
    assert result.steps == 24
    if trained.inverter is not None:
        assert set(trained.inverter.sample(30, generator=seeded(0))[1].tolist()) == {0, 1, 2}


def test_it_learns_and_rejects_noise():
    trained, result = train_with_garbage(
        network(), DATA, config(steps=90), INVERSION, generator=seeded(0), device="cpu"
    )
    assert result.metrics["test_top1"] > 0.9
    assert result.metrics["kept"] > 0.9
    rejected = trained.target(trained.garbage[:20]).argmax(1) == 3
    assert float(rejected.float().mean()) > 0.9
    assert not trained.target.module.training


def test_an_interruption_of_the_inversion_ends_the_training(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkInversion, "step", interrupt)
    trained, result = train_with_garbage(network(), DATA, config(), INVERSION, generator=seeded(0), device="cpu")
    assert result.stopped == "interrupted"
    assert len(trained.garbage) == 20


def test_what_is_refused():
    with pytest.raises(ValueError, match="names 4 classes"):
        train_with_garbage(network(3), DATA, config(), INVERSION)
    for change in ({"noise": 0}, {"per_class": -1}, {"inversion_steps": 0}, {"source": "cifar"}):
        with pytest.raises(ValueError, match=next(iter(change))):
            config(**change)
    colour = torch.rand(4, 3, 8, 8)
    trained, _ = train_with_garbage(network(), DATA, config(steps=3), INVERSION, device="cpu")
    with pytest.raises(ValueError, match="3 channels; the network takes 1"):
        trained.target.spec.check(colour)
    for profile in ("ci", "book", "paper"):
        assert GarbageConfig.for_profile(profile).steps > 0
