"""What holds for every method: one row for each, one column for each promise.

A new method adds a row. A promise that does not apply to it is left out by a reason in ``without``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import invkit.methods
from invkit.analysis.compare import compare
from invkit.analysis.sparse_autoencoder import SparseAutoencoderConfig, sparse_autoencoder
from invkit.core.files import digest
from invkit.core.results import InversionResult
from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.data.datasets import DataSet, Split
from invkit.engine.classifier import ClassifierConfig, train_classifier
from invkit.engine.gan import GANConfig, train_gan
from invkit.methods.dci import DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiMConfig, deepsim
from invkit.methods.distillation import DistillationConfig, distil
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.methods.feedforward import FeedforwardConfig, feedforward_inversion
from invkit.methods.garbage_class import GarbageConfig, train_with_garbage
from invkit.methods.hidden import HiddenConfig, train_hidden
from invkit.methods.network_inversion import NetworkInversionConfig, network_inversion
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.methods.reconstruction import ReconstructionConfig, reconstruct
from invkit.testing import TinyNet, tiny_target

# ---- what the methods are given


def target() -> Target:
    """A tiny frozen network: one channel, 8x8 pixels, 4 classes, two batch norms."""
    return tiny_target(channels=1)


def untrained(classes: int = 4) -> nn.Module:
    """The same in train mode, to be trained."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TinyNet(1, classes, 4)


def quarters(count: int, seed: int) -> Split:
    """Images with one bright quarter, which is their class."""
    labels = torch.arange(count) % 4
    bright = F.one_hot(labels, 4).view(count, 1, 2, 2).float()
    images = 0.7 * F.interpolate(bright, (8, 8)) + 0.3 * torch.rand(count, 1, 8, 8, generator=seeded(seed))
    return Split(pixels=(255 * images).byte(), labels=labels)


LABELS = torch.arange(4)
DATA = DataSet(name="quarters", spec=target().spec, train=quarters(48, 0), test=quarters(8, 1), heldout=quarters(8, 2))
IMAGES = DATA.train.images[:24]
FEATURES = layer_features(target(), IMAGES[:3], "conv2").clone()
GIVEN = (LABELS, IMAGES, FEATURES, DATA.train.pixels, DATA.train.labels, DATA.test.pixels, DATA.test.labels)
OFTEN: dict[str, Any] = {"log_every": 1, "checkpoint_every": 2}


# ---- what comes back


@dataclass(frozen=True)
class Outcome:
    """What a run gave: tensors that must be the same bits, the loss that should fall, and why it ended."""

    tensors: Mapping[str, Tensor]
    losses: Sequence[float]
    stopped: str
    learnt: Sequence[nn.Module] = ()
    inverse: Callable[..., Tensor] | None = None


def of_images(result: InversionResult) -> Outcome:
    return Outcome({"images": result.images}, result.history["total"], result.stopped)


def of_fit(learnt: Sequence[nn.Module], result: Any, *terms: str) -> Outcome:
    """Of networks that were learnt, by the sum of some terms of their loss."""
    losses = [sum(values) for values in zip(*(result.history.get(term, ()) for term in terms), strict=True)]
    return Outcome(weights_of(learnt), losses, result.stopped, learnt)


def weights_of(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {f"{i}.{name}": v.clone() for i, network in enumerate(networks) for name, v in network.state_dict().items()}


@dataclass(frozen=True)
class Row:
    """A method, how to run it on something tiny, and what it refuses."""

    function: Callable[..., Any]
    """The entry point."""
    config: type
    """Its config."""
    run: Callable[..., Outcome]
    """``run(network, seed, **options)``; the options go on to the entry point."""
    network: Callable[[], nn.Module] = target
    """What is handed to ``run``, and to be left as it was."""
    refuses: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """A word that the message must hold, and a call that is to be refused."""
    inverts: Callable[[Target], Tensor] | None = None
    """What its inverse takes, where it learns one."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Columns that do not apply, with the reason."""

    @property
    def name(self) -> str:
        return self.function.__name__


# ---- one runner for each method


def run_deep_inversion(network, seed, **options):
    config = DeepInversionConfig(steps=6, low_resolutions=((0.5, 4),), **OFTEN)
    return of_images(deep_inversion(network, LABELS, config, generator=seeded(seed), **options))


def run_class_inversion(network, seed, **options):
    config = DeepDreamConfig(steps=6, lr=0.1, jitter=1, **OFTEN)
    return of_images(class_inversion(network, LABELS, config, generator=seeded(seed), **options))


def run_deep_dream(network, seed, **options):
    config = DeepDreamConfig(steps=6, lr=0.02, octaves=2, jitter=1, **OFTEN)
    result = deep_dream(network, IMAGES[:2], "conv2", config, generator=seeded(seed), **options)
    last = result.history["total"][-6:]  # octaves of other sizes have other losses
    return Outcome({"images": result.images}, last, result.stopped)


def run_plug_in(network, seed, **options):
    config = PlugInConfig(steps=6, stages=2, lr=0.05, ensemble=2, jitter=1, redraw=100, **OFTEN)
    result = plug_in_inversion(network, LABELS, config, generator=seeded(seed), **options)
    return Outcome({"images": result.images}, result.history["total"][:6], result.stopped)


def run_feature_inversion(network, seed, **options):
    config = FeatureInversionConfig(steps=6, lr=0.1, match=1.0, jitter=0, **OFTEN)
    return of_images(feature_inversion(network, FEATURES, "conv2", config, generator=seeded(seed), **options))


def run_network_inversion(network, seed, **options):
    config = NetworkInversionConfig(steps=12, width=4, latent=4, batch_size=16, lr=0.02, dropout=0.1, **OFTEN)
    inverse, result = network_inversion(network, config, generator=seeded(seed), **options)
    return replace(of_fit(inverse.networks, result, "total"), inverse=inverse)


def run_reconstruct(network, seed, **options):
    small = {"width": 4, "latent": 4, "batch_size": 16, "gradient_images": 2, "dropout": 0.1}
    config = ReconstructionConfig(steps=12, lr=0.02, **small, **OFTEN)
    inverse, result = reconstruct(network, config, generator=seeded(seed), **options)
    return replace(of_fit(inverse.networks, result, "total"), inverse=inverse)


def run_deepsim(network, seed, **options):
    config = DeePSiMConfig(steps=8, batch_size=8, width=4, lr=2e-3, image=1.0, features=0.1, adversarial=0.1, **OFTEN)
    inverse, result = deepsim(network, IMAGES, "conv2", config, generator=seeded(seed), **options)
    return replace(of_fit([inverse], result, "image", "features"), inverse=inverse)


def run_divide_and_conquer(network, seed, **options):
    config = DCIConfig(steps=8, fine_tune_steps=4, restarts=0, batch_size=8, lr=4e-3, **OFTEN)
    inverse, result = divide_and_conquer(network, IMAGES, config, generator=seeded(seed), **options)
    first = next(iter(result.stages[0].fits.values()))
    return Outcome(weights_of([inverse]), first.history["total"], result.stopped, [inverse], inverse)


def run_feedforward(network, seed, **options):
    small = {"batch_size": 8, "latent": 4, "width": 4, "hidden": 8, "ema": 0.9}
    config = FeedforwardConfig(steps=6, **small, **OFTEN)
    inverse, result = feedforward_inversion(network, IMAGES, config, generator=seeded(seed), **options)
    return replace(of_fit([inverse], result, "generator"), inverse=inverse)


def run_train_gan(network, seed, **options):
    config = GANConfig(steps=6, batch_size=8, latent=4, width=4, discriminator_steps=1, ema=0.9, **OFTEN)
    (generator, discriminator), result = train_gan(DATA, config, seed=seed, device="cpu", **options)
    return of_fit([generator, discriminator], result, "generator")


def run_train_classifier(network, seed, **options):
    config = ClassifierConfig(steps=9, warmup=0, batch_size=16, lr=0.01, **OFTEN)
    _, result = train_classifier(network, DATA, config, seed=seed, device="cpu", **options)
    return of_fit([network], result, "cross_entropy")


def run_train_hidden(network, seed, **options):
    config = HiddenConfig(steps=9, warmup=0, batch_size=16, lr=1.0, k=50, **OFTEN)
    hidden, result = train_hidden(network, DATA, config, seed=seed, device="cpu", **options)
    return of_fit([hidden.module], result, "cross_entropy")


def run_train_with_garbage(network, seed, **options):
    config = GarbageConfig(
        steps=9, warmup=0, batch_size=16, lr=0.01, noise=8, per_class=2, inversion_steps=2, **OFTEN
    )  # fmt: skip
    inversion = NetworkInversionConfig(width=4, latent=4, batch_size=8)
    options |= {"generator": seeded(seed), "device": "cpu"}
    trained, result = train_with_garbage(network, DATA, config, inversion, **options)
    outcome = of_fit([trained.target.module], result, "cross_entropy")
    return replace(outcome, tensors={**outcome.tensors, "garbage": trained.garbage})


def run_distil(network, seed, **options):
    config = DistillationConfig(steps=9, warmup=0, batch_size=8, lr=0.01, **OFTEN)
    labels = DATA.train.labels[:24]
    student, result = distil(network, untrained(), IMAGES, labels, config, generator=seeded(seed), **options)
    return of_fit([student.module], result, "distillation")


def run_sparse_autoencoder(network, seed, **options):
    features = torch.rand(32, 6, generator=seeded(9))
    config = SparseAutoencoderConfig(steps=9, batch_size=8, codes=12, active=3, lr=0.01, **OFTEN)
    network, result = sparse_autoencoder(features, config, generator=seeded(seed), **options)
    return of_fit([network], result, "error")


# ---- the rows

NO_NETWORK = {"untouched": "it is given no network"}
TRAINS = {"untouched": "it trains the network that it is given"}
A_GAME = {"falls": "two networks play against each other, so no loss has to fall"}
WRONG_SIZE = torch.zeros(3, 1, 9, 9)

ROWS = [
    Row(
        deep_inversion,
        DeepInversionConfig,
        run_deep_inversion,
        refuses={
            "label": lambda net: deep_inversion(net, [0, 4]),
            "init": lambda net: deep_inversion(net, [0, 1, 2], init=WRONG_SIZE),
        },
    ),
    Row(
        class_inversion,
        DeepDreamConfig,
        run_class_inversion,
        refuses={
            "label": lambda net: class_inversion(net, [-1]),
            "init": lambda net: class_inversion(net, [0, 1, 2], init=WRONG_SIZE),
        },
    ),
    Row(
        deep_dream,
        DeepDreamConfig,
        run_deep_dream,
        refuses={
            "layer": lambda net: deep_dream(net, IMAGES[:1], "absent"),
            "channel": lambda net: deep_dream(net, torch.zeros(1, 3, 8, 8), "conv2"),
        },
    ),
    Row(
        plug_in_inversion,
        PlugInConfig,
        run_plug_in,
        refuses={
            "label": lambda net: plug_in_inversion(net, [0, 4]),
            "init": lambda net: plug_in_inversion(net, [0, 1, 2], init=WRONG_SIZE),
        },
    ),
    Row(
        feature_inversion,
        FeatureInversionConfig,
        run_feature_inversion,
        refuses={
            "layer": lambda net: feature_inversion(net, FEATURES, "absent"),
            "features": lambda net: feature_inversion(net, FEATURES[:, :1], "conv2"),
        },
    ),
    Row(
        network_inversion,
        NetworkInversionConfig,
        run_network_inversion,
        refuses={"label": lambda net: network_inversion(net, NetworkInversionConfig(steps=1), only=[4])},
        inverts=lambda net: LABELS,
    ),
    Row(
        reconstruct,
        ReconstructionConfig,
        run_reconstruct,
        refuses={"train mode": lambda net: reconstruct(in_train_mode(net), ReconstructionConfig(steps=1))},
        inverts=lambda net: LABELS,
    ),
    Row(
        deepsim,
        DeePSiMConfig,
        run_deepsim,
        refuses={
            "layer": lambda net: deepsim(net, IMAGES, "absent"),
            "images": lambda net: deepsim(net, WRONG_SIZE, "conv2"),
        },
        inverts=lambda net: FEATURES,
    ),
    Row(
        divide_and_conquer,
        DCIConfig,
        run_divide_and_conquer,
        refuses={"images": lambda net: divide_and_conquer(net, WRONG_SIZE)},
        inverts=lambda net: net(IMAGES[:4]),
        without={"file": "its checkpoint is a folder"},
    ),
    Row(
        feedforward_inversion,
        FeedforwardConfig,
        run_feedforward,
        refuses={"images": lambda net: feedforward_inversion(net, WRONG_SIZE)},
        inverts=lambda net: net(IMAGES[:4]),
        without=A_GAME,
    ),
    Row(
        distil,
        DistillationConfig,
        run_distil,
        refuses={
            "images": lambda net: distil(net, untrained(), WRONG_SIZE, [0, 1, 2]),
            "label": lambda net: distil(net, untrained(), IMAGES[:2], torch.tensor([0, 4])),
        },
    ),
    Row(
        train_hidden,
        HiddenConfig,
        run_train_hidden,
        network=untrained,
        refuses={"mask": lambda net: train_hidden(nn.Flatten(), DATA, HiddenConfig(steps=1, warmup=0), device="cpu")},
    ),
    Row(
        train_with_garbage,
        GarbageConfig,
        run_train_with_garbage,
        network=lambda: untrained(5),
        refuses={"classes": lambda net: train_with_garbage(untrained(4), DATA, device="cpu")},
        without=TRAINS,
    ),
    Row(
        train_classifier,
        ClassifierConfig,
        run_train_classifier,
        network=untrained,
        without=TRAINS,
    ),
    Row(
        train_gan,
        GANConfig,
        run_train_gan,
        refuses={"9x9": lambda net: train_gan(replace(DATA, spec=replace(DATA.spec, size=(9, 9))), device="cpu")},
        without=NO_NETWORK | A_GAME,
    ),
    Row(
        sparse_autoencoder,
        SparseAutoencoderConfig,
        run_sparse_autoencoder,
        refuses={"features": lambda net: sparse_autoencoder(torch.zeros(1, 6))},
        without=NO_NETWORK,
    ),
]


def in_train_mode(network: Target) -> Target:
    network.module.train()
    return network


# ---- the columns


def rows(column: str) -> Any:
    """Each row as a parameter, skipped with its reason where the column does not apply to it."""
    parameters = [
        pytest.param(row, id=row.name, marks=[pytest.mark.skip(row.without[column])] if column in row.without else [])
        for row in ROWS
    ]
    return pytest.mark.parametrize("row", parameters)


class Killed(Exception):
    """Ends a run as nothing in it expects."""


class Calls:
    """A callback that counts steps, and raises at the end of one of them."""

    def __init__(self, at: int = 0, error: type[BaseException] = Killed) -> None:
        self.at, self.error, self.count = at, error, 0

    def __call__(self, step: Any) -> None:
        self.count += 1
        if self.count == self.at:
            raise self.error


def same(one: Outcome, other: Outcome) -> bool:
    if one.tensors.keys() != other.tensors.keys():
        return False
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def state_of(network: nn.Module) -> dict[str, Any]:
    """What a method may not change in a network: its tensors, modes, gradients and hooks."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "tensors": digest(*network.parameters(), *network.buffers()),
        "mode": [module.training for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "gradients": [parameter.grad is None for parameter in network.parameters()],
        "hooks": [len(getattr(module, kind)) for module in network.modules() for kind in kinds],
    }


@rows("alike")
def test_it_is_called_like_all_others(row):
    parameters = inspect.signature(row.function).parameters
    assert parameters["config"].default is None
    assert {"callbacks", "checkpoint"} <= set(parameters)
    assert {"generator", "seed"} & set(parameters)
    optional = [p for p in parameters.values() if p.default is not p.empty and p.name not in ("config", "inversion")]
    assert all(p.kind is p.KEYWORD_ONLY for p in optional)


@rows("bits")
def test_same_seed_same_bits_and_another_seed_others(row):
    one, again, other = (row.run(row.network(), seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert one.losses == again.losses
    assert not same(one, other)


@rows("untouched")
def test_the_network_is_left_as_it_was(row):
    network = row.network()
    before = state_of(network)
    row.run(network, 1)
    assert state_of(network) == before


@rows("untouched")
def test_a_run_that_is_killed_leaves_no_hook_behind(row):
    network = row.network()
    before = state_of(network)
    with pytest.raises(Killed):
        row.run(network, 1, callbacks=[Calls(at=2)])
    assert state_of(network) == before


@rows("given")
def test_what_is_given_and_the_global_random_numbers_are_left_alone(row):
    before, numbers = digest(*GIVEN), torch.get_rng_state()
    row.run(row.network(), 1)
    assert digest(*GIVEN) == before
    assert torch.equal(torch.get_rng_state(), numbers)


@rows("falls")
def test_a_few_steps_lower_the_objective(row):
    losses = torch.tensor(row.run(row.network(), 1).losses)
    third = len(losses) // 3
    assert len(losses) >= 5
    assert losses[-third:].mean() < losses[:third].mean()


@pytest.mark.parametrize(
    ("row", "word"), [pytest.param(row, word, id=f"{row.name}-{word}") for row in ROWS for word in row.refuses]
)
def test_what_does_not_fit_is_refused_in_one_sentence(row, word):
    with pytest.raises(ValueError, match=word) as caught:
        row.refuses[word](row.network())
    assert "\n" not in str(caught.value)


@rows("config")
def test_the_config_refuses_nonsense_and_knows_its_profiles(row):
    with pytest.raises(ValueError, match="steps"):
        row.config(steps=0)
    with pytest.raises(ValueError, match="profile"):
        row.config.for_profile("none")
    small, paper = (row.config.for_profile(profile).steps for profile in ("ci", "paper"))
    assert small <= row.config.for_profile("book").steps <= paper


@rows("paper")
def test_the_papers_setting_runs_at_tiny_size(row, monkeypatch):
    """All that the runner does not make small is the paper's."""
    asked = []

    def paper(**small: Any) -> Any:
        asked.append(row.config.for_profile("paper", **small))
        return asked[-1]

    monkeypatch.setitem(globals(), row.config.__name__, paper)
    outcome = row.run(row.network(), 1)
    assert len(asked) == 1
    assert outcome.stopped in ("steps", "patience")
    assert all(tensor.isfinite().all() for tensor in outcome.tensors.values() if tensor.is_floating_point())


@rows("resumes")
def test_a_killed_run_resumes_to_the_same_bits(row, tmp_path):
    whole = Calls()
    expected = row.run(row.network(), 1, callbacks=[whole])
    path, at = tmp_path / "run", whole.count * 2 // 3
    with pytest.raises(Killed):
        row.run(row.network(), 1, checkpoint=path, callbacks=[Calls(at=at)])
    assert list(tmp_path.iterdir()), "nothing was written before the end"
    rest = Calls()
    resumed = row.run(row.network(), 1, checkpoint=path, callbacks=[rest])
    assert 0 < rest.count < whole.count
    assert same(resumed, expected)
    assert resumed.losses == expected.losses


@rows("file")
def test_a_file_that_is_no_checkpoint_is_named(row, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        row.run(row.network(), 1, checkpoint=path)
    assert path.read_text() == "no checkpoint"


@rows("frozen")
def test_what_was_learnt_is_frozen(row):
    for network in row.run(row.network(), 1).learnt:
        assert not any(parameter.requires_grad for parameter in network.parameters())
        training = {type(module) for module in network.modules() if module.training and not list(module.children())}
        assert all(issubclass(kind, (nn.Dropout, nn.Dropout2d)) for kind in training), "only the noise of sampling"


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS if row.inverts])
def test_a_learnt_inverse_is_called_like_all_others(row):
    network = row.network()
    references, inverse = row.inverts(network), row.run(network, 1).inverse
    comparison = compare({"inverse": inverse}, references, lambda images: {"mean": float(images.mean())}, seeds=(3,))
    images = comparison.images["inverse"]
    assert images.shape == (len(references), 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(inverse(references, seeded(3)), images)
    assert inverse(references).shape == images.shape


@rows("interrupted")
def test_an_interrupted_run_gives_what_there_is(row):
    calls = Calls(at=3, error=KeyboardInterrupt)
    outcome = row.run(row.network(), 1, callbacks=[calls])
    assert outcome.stopped == "interrupted"
    assert calls.count == 3
    assert all(tensor.isfinite().all() for tensor in outcome.tensors.values())


# ---- nobody is left out


def test_every_method_has_a_row_and_a_line():
    files = {path.stem for path in Path(invkit.methods.__file__).parent.glob("[!_]*.py")}
    assert files == {name for row in ROWS if (name := row.function.__module__.rpartition(".")[2]) in files}
    listed = set(re.findall(r"^- :func:`(\w+)`", invkit.methods.__doc__ or "", re.MULTILINE))
    assert listed == {row.name for row in ROWS if row.function.__module__.startswith("invkit.methods.")}
    assert listed <= set(invkit.methods.__all__)


@pytest.mark.parametrize("config", [c for c in vars(invkit.methods).values() if hasattr(c, "PROFILES")])
def test_where_the_papers_setting_waits_on_a_plateau_it_divides_by_ten(config: Any) -> None:
    paper = config.for_profile("paper")
    if getattr(paper, "schedule", "") == "plateau":
        assert paper.plateau_factor == 0.1, "PyTorch's own; Botach & Cohen, §4.1.2, give the patience"
