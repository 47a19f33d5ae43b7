"""Training on attacked images: what it costs, what it gains, what is kept of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invkit.attacks import robust_accuracy
from invkit.core.config import config_hash, plain
from invkit.core.rng import seeded
from invkit.data.datasets import DataSet, load_data
from invkit.engine.classifier import ClassifierConfig, ClassifierLearner, load_or_train, train_classifier, weights_path
from invkit.engine.fit import FitStep
from invkit.networks.classifiers import build


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits", size=8, limit=200)


def learner(network: str, data: DataSet, **options: Any) -> ClassifierLearner:
    config = ClassifierConfig(steps=10, warmup=2, shift=0, **options)
    module = build(network, data.spec, width=4, seed=0)
    return ClassifierLearner(module, data.spec, config, generator=seeded(0), device=torch.device("cpu"))


@pytest.mark.parametrize("wrong", [{"eps": -0.1}, {"eps": 1.0}, {"eps": float("nan")}, {"attack_steps": 0}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClassifierConfig(**wrong)


def test_the_attack_stays_close_raises_the_loss_and_leaves_no_trace(digits: DataSet) -> None:
    one = learner("bn_cnn", digits, eps=0.1)
    images, labels = digits.train.pixels[:32].float() / 255, digits.train.labels[:32]
    state = {name: value.clone() for name, value in one.module.state_dict().items()}
    attacked = one.attack(images, labels)
    assert all(torch.equal(state[name], value) for name, value in one.module.state_dict().items())
    assert all(module.training for module in one.module.modules())
    assert all(p.grad is None for p in one.module.parameters())
    assert float((attacked - images).abs().max()) == pytest.approx(0.1)
    assert 0 <= attacked.min() <= attacked.max() <= 1
    one.module.eval()
    assert loss(one, attacked, labels) > loss(one, images, labels)


def loss(one: ClassifierLearner, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(one.module(one.spec.normalise(images)), labels))


def test_batch_norm_sees_each_batch_once(digits: DataSet) -> None:
    one = learner("bn_cnn", digits, eps=0.1, attack_steps=2)
    one.step((digits.train.pixels[:16].float() / 255, digits.train.labels[:16]))
    counts = [m.num_batches_tracked for m in one.module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counts
    assert all(int(count) == 1 for count in counts)


def test_without_a_radius_nothing_is_attacked(digits: DataSet) -> None:
    one = learner("bn_cnn", digits)
    images, state = digits.train.pixels[:8].float() / 255, one.generator.get_state()
    assert one.attack(images, digits.train.labels[:8]) is images
    assert torch.equal(state, one.generator.get_state())


def test_kept_files_of_robust_networks_are_others(digits: DataSet) -> None:
    def name(**options: Any) -> str:
        return weights_path("bn_cnn", digits, ClassifierConfig(**options)).stem

    assert len({name(), name(eps=0.1), name(eps=0.2), name(eps=0.1, attack_steps=3)}) == 4
    assert name(attack_steps=3) == name(), "the attack has no part in standard training"


def test_names_from_before_there_was_a_radius_stay_good(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[dict[str, Any]] = []
    monkeypatch.setattr("invkit.engine.cache.config_hash", lambda key: keys.append(key) or config_hash(key))
    weights_path("bn_cnn", digits, ClassifierConfig())
    fields = set(plain(ClassifierConfig())) - {"eps", "attack_steps"}
    assert set(keys[0]["config"]) == fields


def test_a_stopped_robust_training_resumes_to_the_same_bits(digits: DataSet, tmp_path: Path) -> None:
    config = ClassifierConfig.for_network(
        "bn_cnn", "ci", eps=0.1, attack_steps=2, steps=9, warmup=2, checkpoint_every=4
    )
    options: dict[str, Any] = {"width": 4, "device": "cpu"}

    class Killed(Exception):
        pass

    def kill(step: FitStep) -> None:
        if step.index == 6:
            raise Killed

    whole = load_or_train("bn_cnn", digits, config, folder=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        load_or_train("bn_cnn", digits, config, folder=tmp_path / "killed", callbacks=[kill], **options)
    torch.rand(3)  # somebody else draws
    resumed = load_or_train("bn_cnn", digits, config, folder=tmp_path / "killed", **options)
    assert resumed.fingerprint() == whole.fingerprint()


def test_a_robust_network_withstands_what_fools_a_standard_one() -> None:
    data = load_data("digits", size=8)
    shares = []
    for eps in (0.0, 0.15):
        module = build("bn_cnn", data.spec, width=8, seed=0)
        config = ClassifierConfig(steps=90, batch_size=32, shift=0, lr=1e-2, eps=eps, attack_steps=2)
        target, result = train_classifier(module, data, config, device="cpu")
        assert result.metrics["test_top1"] >= 0.9
        shares.append(robust_accuracy(target, data.test.pixels, data.test.labels, eps=0.15))
        assert result.metrics.get("test_robust") == (shares[-1] if eps else None)
    standard, robust = shares
    assert robust > standard + 0.2
