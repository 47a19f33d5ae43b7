"""The fit loop and what trains on it: schedules, stopping, resuming to the same bits, kept networks."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from invkit.core.results import DivergedError
from invkit.core.rng import seeded
from invkit.data.datasets import DataSet, load_data
from invkit.engine.classifier import ClassifierConfig, load_or_train, train_classifier, weights_path
from invkit.engine.fit import FitConfig, FitStep, epochs, fit, lr_factor
from invkit.engine.learner import Learner, detached, total
from invkit.networks.classifiers import build


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits", size=8, limit=200)


class Regression(Learner[Tensor]):
    """The smallest learner that needs all of a checkpoint: it draws from the global state as dropout does."""

    STATE = ("weight", "optimizers")

    def __init__(self, fail_at: int | None = None) -> None:
        self.weight = nn.Parameter(torch.zeros(3))
        self.optimizers = (torch.optim.Adam([self.weight], lr=0.1),)
        self.fail_at, self.rates, self.seen = fail_at, [], []

    def step(self, batch: Tensor) -> dict[str, Tensor | float]:
        self.rates.append(self.optimizers[0].param_groups[0]["lr"])
        self.seen.append(batch)
        loss = ((self.weight + 0.1 * torch.randn(3) - batch) ** 2).sum()
        ill = len(self.seen) - 1 == self.fail_at
        return {"loss": self.minimise(loss), "penalty": float("nan") if ill else 0.5}


def shuffled(generator: torch.Generator) -> Iterator[Tensor]:
    for row in torch.randperm(7, generator=generator):
        yield torch.full((3,), float(row)) + torch.rand(3, generator=generator)


def run(config: FitConfig, seed: int = 0, **options: Any) -> tuple[Regression, Any]:
    learner = Regression()
    return learner, fit(learner, shuffled, config, generator=seeded(seed), **options)


@given(
    step=st.integers(0, 99),
    warmup=st.integers(0, 50),
    schedule=st.sampled_from(["cosine", "restarts", "constant"]),
)
def test_the_schedule_stays_in_range(step: int, warmup: int, schedule: Any) -> None:
    factor = lr_factor(FitConfig(steps=100, warmup=warmup, schedule=schedule, period=20), step)
    assert 0 < factor <= 1
    assert not (schedule == "constant" and step >= warmup) or factor == 1


def test_the_schedule_by_hand_and_in_the_optimiser() -> None:
    restarts = FitConfig(steps=100, schedule="restarts", period=10)
    assert [lr_factor(restarts, s) for s in (0, 10, 20)] == [1, 1, 1]
    assert lr_factor(restarts, 5) == pytest.approx(0.5)
    learner, _ = run(FitConfig(steps=4, warmup=2, schedule="constant"))
    assert learner.rates == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_same_seed_same_bits_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    (one, first), (two, second), (other, _) = (run(FitConfig(steps=20), seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.weight, two.weight)
    assert first.history == second.history
    assert not torch.equal(one.weight, other.weight)
    assert (first.stopped, first.steps, first.seed, len(first.history["loss"])) == ("steps", 20, 0, 20)
    assert first.config["steps"] == 20


@pytest.mark.parametrize("stop_after", [5, 7, 12])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    config = FitConfig(steps=30, warmup=3, checkpoint_every=4, evaluate_every=5)
    whole, result = run(config, evaluate=lambda: {"constant": 1.0})

    class Killed(Exception):
        pass

    def kill(step: FitStep) -> None:
        if step.index + 1 == stop_after:
            raise Killed

    path = tmp_path / "run.checkpoint"
    with pytest.raises(Killed):
        run(config, evaluate=lambda: {"constant": 1.0}, callbacks=[kill], checkpoint=path)
    resumed, again = run(config, seed=9, evaluate=lambda: {"constant": 1.0}, checkpoint=path)  # the file's seed rules
    assert len(resumed.seen) == 30 - (stop_after - 1) // 4 * 4
    assert torch.equal(torch.stack(resumed.seen), torch.stack(whole.seen[-len(resumed.seen) :]))
    assert torch.equal(whole.weight, resumed.weight)
    assert again.history == result.history
    finished, _ = run(config, checkpoint=path)
    assert torch.equal(finished.weight, whole.weight)
    assert finished.seen == []


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    run(FitConfig(steps=5), checkpoint=path)
    with pytest.raises(ValueError, match="another config or other networks; delete it"):
        run(FitConfig(steps=6), checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        run(FitConfig(steps=5), checkpoint=path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="lacks config"):
        run(FitConfig(steps=5), checkpoint=path)
    path.unlink()
    fit(Everything(), shuffled, FitConfig(steps=5), generator=seeded(0), checkpoint=path)
    with pytest.raises(ValueError, match=r"another learner; delete it .* lacks weight"):
        run(FitConfig(steps=5), checkpoint=path)


def test_a_non_finite_term_stops_by_name_and_the_good_state_is_kept() -> None:
    ill, well = Regression(fail_at=8), Regression()
    with pytest.warns(UserWarning, match="diverged: .* 'penalty'"):
        result = fit(ill, shuffled, FitConfig(steps=20, log_every=5, schedule="constant"), generator=seeded(0))
    fit(well, shuffled, FitConfig(steps=5, log_every=5, schedule="constant"), generator=seeded(0))
    assert (result.stopped, result.diverged) == ("diverged", True)
    assert result.reason == "the term 'penalty' became nan at step 8; the state after 5 steps was kept"
    assert result.steps == 5
    assert torch.equal(ill.weight, well.weight)
    assert len(result.history["loss"]) == 8


def test_callbacks_stop_and_ctrl_c_returns_what_there_is() -> None:
    seen: list[float] = []

    def enough(step: FitStep) -> bool:
        seen.append(step.losses()["penalty"])
        return step.index == 3

    _, result = run(FitConfig(steps=20), callbacks=[enough], evaluate=lambda: {"score": 2.0})
    assert (result.stopped, result.steps, seen, result.metrics) == ("callback", 4, [0.5] * 4, {"score": 2.0})
    assert "step 3" in result.reason

    def interrupt(step: FitStep) -> None:
        if step.index == 6:
            raise KeyboardInterrupt

    _, result = run(FitConfig(steps=20), callbacks=[interrupt])
    assert (result.stopped, result.steps, len(result.history["loss"])) == ("interrupted", 7, 7)


class Everything(Learner[Tensor]):
    """One of each that a state may hold."""

    STATE = ("network", "none", "draws", "parameter", "bank", "count", "optimizers", "inner")

    def __init__(self) -> None:
        self.network, self.none, self.draws = nn.Linear(2, 1), None, seeded(3)
        self.parameter, self.bank, self.count = nn.Parameter(torch.zeros(2)), torch.zeros(1), 0
        self.optimizers = tuple(torch.optim.Adam(p) for p in ([self.parameter], self.network.parameters()))
        self.inner = Regression()

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        self.count += 1
        self.bank = torch.cat([self.bank, torch.rand(1, generator=self.draws)])
        self.inner.step(batch)
        loss = self.network(batch[:2] + self.parameter).sum()
        self.minimise(loss, self.optimizers[1])
        return {"loss": self.minimise(self.parameter.square().sum() + self.parameter.sum())}


def test_a_state_holds_networks_optimisers_generators_tensors_and_learners() -> None:
    one, two = Everything(), Everything()
    for _ in range(3):
        one.step(torch.ones(3))
    saved = copy.deepcopy(one.state_dict())
    same = {id(getattr(two, name)) for name in ("network", "draws", "parameter", "inner")}
    two.load_state_dict(saved)
    assert {id(getattr(two, name)) for name in ("network", "draws", "parameter", "inner")} == same
    with torch.random.fork_rng():
        for learner in (one, two):
            torch.manual_seed(0)
            learner.step(torch.ones(3))
    assert (two.count, two.none, len(two.bank)) == (4, None, 5)
    for a, b in ((one.bank, two.bank), (one.parameter, two.parameter), (one.inner.weight, two.inner.weight)):
        assert torch.equal(a, b)
    assert torch.equal(one.network.weight, two.network.weight)
    with pytest.raises(ValueError, match="not one of Everything: it lacks network"):
        two.load_state_dict(Regression().state_dict())


def test_minimise_takes_one_step_and_clips() -> None:
    learner = Regression()
    learner.optimizers = (torch.optim.SGD([learner.weight], lr=1.0),)
    loss = learner.minimise(30 * learner.weight[0] + 1, clip_norm=1.0, parameters=[learner.weight])
    assert not loss.requires_grad
    torch.testing.assert_close(learner.weight.data, torch.tensor([-1.0, 0, 0]))
    learner.minimise(30 * learner.weight[0])  # the gradient before is gone
    torch.testing.assert_close(learner.weight.data, torch.tensor([-31.0, 0, 0]))
    terms = {"one": learner.weight.sum(), "two": 2 * learner.weight.sum()}
    assert float(total(terms).detach()) == -93
    assert not any(term.requires_grad for term in detached(terms).values())


def test_epochs_are_shuffled_passes_without_a_rest() -> None:
    images, labels = torch.arange(10, dtype=torch.uint8)[:, None], torch.arange(10)
    passes = [list(epochs(images, labels, 4)(seeded(seed))) for seed in (0, 0, 1)]
    assert [len(batch) for batch, _ in passes[0]] == [4, 4]
    assert all(torch.equal((batch * 255).round().long().flatten(), rows) for batch, rows in passes[0])
    rows = [torch.cat([labels for _, labels in one]).tolist() for one in passes]
    assert rows[0] == rows[1] != rows[2]
    assert sum(len(batch) for batch, _ in epochs(images, None, 4, drop_last=False)(seeded(0))) == 10
    assert len(next(epochs(images, None, 99)(seeded(0)))[0]) == 10


def test_lists_are_passed_over_again_and_nothing_is_an_error() -> None:
    learner = Regression()
    fit(learner, [torch.zeros(3), torch.ones(3)], FitConfig(steps=5), generator=seeded(0))
    assert [float(b[0]) for b in learner.seen] == [0, 1, 0, 1, 0]
    with pytest.raises(ValueError, match="no batches"):
        fit(learner, [], FitConfig(steps=5), generator=seeded(0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"warmup": 400, "steps": 400},
        {"schedule": "linear"},
        {"period": 0},
        {"log_every": 0},
        {"evaluate_every": 0},
        {"batch_size": 0},
        {"optimizer": "adam"},
        {"lr": 0.0},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"label_smoothing": 1.0},
        {"shift": -1},
        {"clip_norm": 0.0},
    ],
)
def test_configs_refuse_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClassifierConfig(**wrong)


def test_profiles() -> None:
    assert ClassifierConfig.for_profile("ci").steps < ClassifierConfig.for_profile("book").steps
    assert ClassifierConfig.for_profile("paper", steps=500).optimizer == "sgd"
    assert ClassifierConfig.for_network("vit_tiny", "paper").optimizer == "adamw"
    assert ClassifierConfig.for_network("vit_tiny", steps=9, warmup=1).steps == 9
    assert ClassifierConfig.for_network("vit_tiny").steps > ClassifierConfig.for_network("bn_cnn").steps
    with pytest.raises(ValueError, match="ci, book, paper, not 'fast'"):
        FitConfig.for_profile("fast")


def test_bn_cnn_learns_real_digits() -> None:
    data = load_data("digits")
    module = build("bn_cnn", data.spec, width=8, seed=0)
    target, result = train_classifier(module, data, ClassifierConfig(steps=150, shift=0, lr=1e-2), device="cpu")
    assert target.module is module
    assert not module.training
    assert result.metrics["test_top1"] >= 0.97
    assert result.history["cross_entropy"][-1] < 0.5 * result.history["cross_entropy"][0]


def test_classifier_training_is_reproducible_with_dropout(digits: DataSet) -> None:
    states = []
    for _ in range(2):
        module = build("bn_cnn", digits.spec, width=4, seed=1)
        torch.rand(3)  # somebody else draws
        train_classifier(module, digits, ClassifierConfig(steps=12, warmup=2, flip=True), seed=3, device="cpu")
        states.append(module.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_load_or_train_keeps_and_finds(digits: DataSet, tmp_path: Path) -> None:
    config = ClassifierConfig(steps=10, warmup=2)
    options: dict[str, Any] = {"width": 4, "folder": tmp_path, "device": "cpu"}
    calls: list[int] = []
    count = [lambda step: calls.append(step.index)]
    first = load_or_train("bn_cnn", digits, config, callbacks=count, **options)
    again = load_or_train("bn_cnn", digits, config, callbacks=count, **options)
    assert len(calls) == 10
    assert first.fingerprint() == again.fingerprint()
    path = weights_path("bn_cnn", digits, config, width=4, folder=tmp_path)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["classes"] == list(digits.spec.classes)
    assert 0 <= record["result"]["metrics"]["test_top1"] <= 1
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="trained anew"):
        mended = load_or_train("bn_cnn", digits, config, **options)
    assert mended.fingerprint() == first.fingerprint()
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json", ".lock"}


def test_a_folder_that_cannot_be_written_is_named(digits: DataSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot keep a trained network in .*file: .*INVKIT_CACHE"):
        load_or_train("bn_cnn", digits, ClassifierConfig.for_profile("ci"), folder=tmp_path / "file")


def test_the_kept_file_depends_on_everything(digits: DataSet, tmp_path: Path) -> None:
    config = ClassifierConfig(steps=10, warmup=2)
    other = load_data("digits", size=8, limit=200, seed=1)
    paths = {
        weights_path("bn_cnn", digits, config),
        weights_path("plain_cnn", digits, config),
        weights_path("bn_cnn", other, config),
        weights_path("bn_cnn", digits, ClassifierConfig(steps=11, warmup=2)),
        weights_path("bn_cnn", digits, config, seed=1),
        weights_path("bn_cnn", digits, config, width=4),
    }
    assert len(paths) == 6


def test_a_diverged_network_is_not_kept(digits: DataSet, tmp_path: Path) -> None:
    config = ClassifierConfig(steps=10, warmup=0, lr=1e30, optimizer="sgd", clip_norm=None, shift=0)
    with pytest.raises(DivergedError, match=r"plain_cnn on digits did not train: the term .*smaller lr"):
        load_or_train("plain_cnn", digits, config, width=4, folder=tmp_path, device="cpu")
    assert not list(tmp_path.glob("*.safetensors"))


PROGRAM = """
import os, signal, sys, time, torch
from pathlib import Path
from invkit.data.datasets import load_data
from invkit.engine.classifier import ClassifierConfig, load_or_train

torch.set_num_threads(1)
killed, whole = Path(sys.argv[1], "killed"), Path(sys.argv[1], "whole")


def train(folder, slow=False):
    # A process of its own; forked, since starting an interpreter takes longer than all the rest.
    child = os.fork()
    if child:
        return child
    data = load_data("digits", size=8, limit=200)
    config = ClassifierConfig(steps=24, warmup=2, checkpoint_every=5)
    brake = [lambda step: time.sleep(0.2 if slow and step.index > 6 else 0)]
    target = load_or_train("bn_cnn", data, config, width=4, folder=folder, device="cpu", callbacks=brake)
    Path(sys.argv[1], f"{os.getpid()}.print").write_text(target.fingerprint())
    os._exit(0)


victim = train(killed, slow=True)
while not list(killed.glob("*.checkpoint")):
    time.sleep(0.01)
os.kill(victim, signal.SIGKILL)
assert os.waitpid(victim, 0)[1] == signal.SIGKILL
assert not list(killed.glob("*.safetensors"))
# Two at once go on where the killed one stood: one trains, the other waits and loads.
for child in (train(killed), train(killed), train(whole)):
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_training_survives_kill_9_to_the_same_bits(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, check=True, timeout=300)
    prints = [path.read_text() for path in tmp_path.glob("*.print")]
    assert len(prints) == 3
    assert len(set(prints)) == 1
