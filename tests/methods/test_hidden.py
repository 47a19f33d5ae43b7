"""Edge-popup: nothing is learnt but what to leave out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invkit.core.config import config_hash
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import load_data
from invkit.engine.fit import fit
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.hidden import EdgePopup, HiddenConfig, load_or_train_hidden, reported_inversion, train_hidden
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.metrics.quality import accuracy
from invkit.networks.classifiers import build
from invkit.networks.masked import apply_masks, mask_size, maskable, masks_of

SPEC = ImageSpec(channels=1, size=(8, 8), mean=(0.3,), std=(0.3,), classes=("a", "b", "c"))
QUICK = {"warmup": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", size=8, limit=600)


class Own(nn.Module):
    """Somebody's own network, with a parameter that is no weight of a layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.gain = nn.Parameter(torch.full((1, 8, 1, 1), 1.5))
        self.out = nn.Linear(128, 10)

    def forward(self, x):
        return self.out(F.adaptive_avg_pool2d(F.relu(self.norm(self.conv(x)) * self.gain), 4).flatten(1))


def learner_of(module, config=None, seed=0, spec=SPEC):
    return EdgePopup(module, spec, config or HiddenConfig(shift=0), generator=seeded(seed))


def batch(n=16, seed=0, spec=SPEC):
    return torch.rand(n, *spec.shape, generator=seeded(seed)), torch.arange(n) % spec.n_classes


def test_a_step_by_hand_on_one_linear_layer():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    config = HiddenConfig(k=25, shift=0, label_smoothing=0.0, weight_decay=0.0, clip_norm=None, lr=0.5)
    learner = learner_of(module, config)
    (scores,), w = learner.scores, learner.drawn[1].weight
    before = scores.detach().clone()
    images, labels = batch()
    z = SPEC.normalise(images).flatten(1)
    h = torch.zeros(192).index_fill(0, before.flatten().topk(48).indices, 1).view(3, 64)
    current = z @ (w * h).T
    by_current = (current.softmax(1) - F.one_hot(labels, 3)) / len(labels)
    assert float(learner.step((images, labels))["cross_entropy"]) == pytest.approx(
        float(F.cross_entropy(current, labels)), rel=1e-5
    )
    torch.testing.assert_close(scores.detach(), before - 0.5 * (by_current.T @ z) * w)


def test_the_update_is_plain_sgd_with_momentum_and_decay():
    learner = learner_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    (group,) = learner.optimizers[0].param_groups
    assert isinstance(learner.optimizers[0], torch.optim.SGD)
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 1e-4)
    assert [p.shape for p in group["params"]] == [(3, 64)]


def test_scores_ranked_by_magnitude():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    signed, absolute = (learner_of(module, HiddenConfig(k=25, shift=0, absolute=a)) for a in (False, True))
    (scores,) = absolute.scores
    assert absolute.masks()["1"][scores.abs() > scores.abs().quantile(0.76)].all()
    assert not torch.equal(signed.masks()["1"], absolute.masks()["1"])
    absolute.step(batch())
    assert scores.grad[scores < 0].any(), "negative scores learn too"


def test_no_weight_ever_changes_and_scores_do(digits):
    module = build("bn_cnn", digits.spec, width=4, seed=0)
    given = copy.deepcopy(module.state_dict())
    config = HiddenConfig(steps=15, **QUICK)
    learner = EdgePopup(module, digits.spec, config, generator=seeded(0))
    began = {name: p.detach().clone() for name, p in learner.module.named_parameters()}
    masks = learner.masks()
    for _ in range(15):
        learner.step((digits.train.images[:64], digits.train.labels[:64]))
    for name, value in learner.module.named_parameters():
        assert torch.equal(value, began[name]) != name.endswith(".scores"), name
    assert any(not torch.equal(mask, masks[name]) for name, mask in learner.masks().items())
    drawn = config.draw(module, seeded(0))
    for name, layer in maskable(learner.network()).items():
        mask = learner.masks()[name]
        assert int(mask.sum()) == mask_size(30, mask.numel())
        assert torch.equal(layer.weight, drawn.get_submodule(name).weight * mask)
    assert all(torch.equal(value, given[name]) for name, value in module.state_dict().items())


def test_a_hidden_network_reads_digits_and_a_random_mask_does_not(digits):
    module = build("bn_cnn", digits.spec, width=16, dropout=0.0, seed=0)
    config = HiddenConfig(k=50, steps=200, warmup=10, lr=1.0)
    target, result = train_hidden(module, digits, config, device="cpu")
    assert result.metrics["test_top1"] > 0.9
    found = accuracy(target, digits.test.images, digits.test.labels)["top1"]
    assert found == result.metrics["test_top1"]
    none, _ = train_hidden(module, digits, HiddenConfig(k=50, steps=200, warmup=10, lr=1e-9), device="cpu")
    assert accuracy(none, digits.test.images, digits.test.labels)["top1"] < found - 0.5
    shuffled = {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=seeded(3))].view(mask.shape)
        for name, mask in masks_of(target.module).items()
    }
    other = apply_masks(config.draw(module, seeded(0)), shuffled)
    other.load_state_dict(dict(target.module.named_buffers()), strict=False)
    other = Target(other.eval(), digits.spec)
    assert accuracy(other, digits.test.images, digits.test.labels)["top1"] < found - 0.5


def test_kept_and_found_again(digits, tmp_path):
    config = HiddenConfig(steps=5, **QUICK)
    first = load_or_train_hidden("bn_cnn", digits, config, width=4, folder=tmp_path, device="cpu")
    (path,) = tmp_path.glob("*.safetensors")
    stamp = path.stat().st_mtime_ns
    again = load_or_train_hidden("bn_cnn", digits, config, width=4, folder=tmp_path, device="cpu")
    assert path.stat().st_mtime_ns == stamp
    assert again.fingerprint() == first.fingerprint()
    other = HiddenConfig(steps=5, k=40, **QUICK)
    load_or_train_hidden("bn_cnn", digits, other, width=4, folder=tmp_path, device="cpu")
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_whole_number_and_a_fraction_name_the_same_network():
    assert config_hash(HiddenConfig(k=50)) == config_hash(HiddenConfig(k=50.0))


@pytest.mark.parametrize("network", ["resnet20", "plain_cnn", "repvgg_tiny", "mixer_tiny"])
def test_networks_of_other_makes(digits, network):
    width = {"resnet20": 4, "mixer_tiny": 16}.get(network, 8)
    module = build(network, digits.spec, width=width, seed=0)
    target, result = train_hidden(module, digits, HiddenConfig(steps=25, lr=1.0, scaled=True, **QUICK), device="cpu")
    losses = result.history["cross_entropy"]
    assert sum(losses[-5:]) < sum(losses[:5]), "a few steps lower the loss"
    shares = [float(mask.float().mean()) for mask in masks_of(target.module).values()]
    assert all(abs(kept_fraction - 0.3) < 0.05 for kept_fraction in shares)


def test_somebody_elses_network_and_what_is_no_weight_of_a_layer(digits):
    module = Own()
    target, result = train_hidden(module, digits, HiddenConfig(k=50, steps=60, **QUICK), device="cpu")
    assert torch.equal(target.module.gain, module.gain)
    assert not target.module.out.bias.any()
    assert result.metrics["test_top1"] > 0.3


def test_without_statistics(digits):
    module = build("bn_cnn", digits.spec, width=4, seed=0)
    config = HiddenConfig(steps=10, statistics=False, **QUICK)
    target, result = train_hidden(module, digits, config, device="cpu")
    assert result.stopped == "steps"
    images = digits.test.images[:20]
    assert not torch.allclose(target(images)[:5], target(images[:5]), atol=1e-3), "outputs depend on the batch"
    few = {"steps": 2, "log_every": 1}
    with pytest.raises(ValueError, match="tracks no running statistics"):
        deep_inversion(target, [0, 1], DeepInversionConfig.for_profile("ci", **few))
    made = deep_inversion(target, [0, 1], DeepInversionConfig.for_profile("ci", batch_norm=0.0, **few))
    assert "batch_norm" not in made.history
    plug_in_inversion(target, [0, 1], PlugInConfig.for_profile("ci", steps=2))


def test_the_reported_inversion_is_that_of_the_published_code(target):
    """Its loss by that code's own formulas, its start, its units and its step."""
    labels, seen = [0, 1, 2, 3], []
    config = reported_inversion(4, steps=2, jitter=0)
    result = deep_inversion(target, labels, config, callbacks=[lambda step: seen.append(step.images.clone())])
    start = torch.randn(4, 3, 8, 8, generator=seeded(0)).clamp(0, 1)
    x = (start - target.mean) / target.std
    differences = (
        x[:, :, :-1, :-1] - x[:, :, 1:, 1:], x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
        x[:, :, :-1] - x[:, :, 1:], x[..., :-1] - x[..., 1:],
    )  # fmt: skip
    variation = 5e-4 * sum(d.norm() for d in differences) / 4  # of the batch, over its size
    entropy = F.cross_entropy(target.module(x), torch.tensor(labels))
    assert result.history["cross_entropy"][0] == pytest.approx(float(entropy), rel=1e-5)
    assert result.history["tv"][0] == pytest.approx(float(variation), rel=0.01)  # images of one variation each: nearly
    assert set(result.history) == {"cross_entropy", "tv", "batch_norm", "total"}
    moved = (seen[0] - start).abs()
    assert float(moved.max()) == pytest.approx(0.05 * sum(target.spec.std) / 3, rel=0.01)
    assert reported_inversion(50).offset((224, 224)) == 30
    assert reported_inversion(50).wraps((16, 16))
    with pytest.raises(ValueError, match="n_images must be at least 1, not 0"):
        reported_inversion(0)


def test_what_is_refused(digits):
    for k in (0, -1, 100.5, float("nan")):
        with pytest.raises(ValueError, match=r"\bk\b"):
            HiddenConfig(k=k)
    with pytest.raises(ValueError, match="signed_constant or kaiming_normal"):
        HiddenConfig(init="ones")
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        learner_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert HiddenConfig(k=100).k == 100


def test_it_runs_on_the_one_loop(digits):
    learner = EdgePopup(build("bn_cnn", digits.spec, width=4), digits.spec, HiddenConfig(), generator=seeded(0))
    data = [(digits.train.images[:16], digits.train.labels[:16])]
    result = fit(learner, data, HiddenConfig(steps=3, warmup=0), generator=seeded(0))
    assert set(result.history) == {"cross_entropy", "accuracy"}
