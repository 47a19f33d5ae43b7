"""What people hand over as images: harmless kinds are converted, the others named in one sentence, everywhere alike."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import invkit as ik
from invkit import attacks, data, metrics, show, transforms
from invkit.objectives import priors
from invkit.testing import tiny_target

SIZE = 12  # SSIM's window is 11 pixels wide
LEVELS = torch.randint(256, (4, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
CLEAN = LEVELS / 255
OTHERS = CLEAN.flip(0)
LABELS = torch.tensor([0, 1, 2, 3])
TARGET = tiny_target(size=(SIZE, SIZE))
VERIFIER = tiny_target(size=(SIZE, SIZE), seed=1)

# A kind of input, made of bytes, and the float tensor that it stands for.
HARMLESS: dict[str, Callable[[torch.Tensor], Any]] = {
    "uint8": lambda levels: levels,
    "numpy": lambda levels: (levels / 255).numpy(),
    "numpy uint8": lambda levels: levels.numpy(),
    "numpy float64": lambda levels: (levels / 255).double().numpy(),
    "lists": lambda levels: (levels / 255).tolist(),
    "list of tensors": lambda levels: list(levels / 255),
    "float64": lambda levels: (levels / 255).double(),
    "with a graph": lambda levels: (levels / 255).requires_grad_(),
}
HARMFUL: dict[str, Callable[[torch.Tensor], Any]] = {
    "None": lambda _: None,
    "text": lambda _: "images.pt",
    "NaN": lambda levels: torch.where(levels > 250, torch.nan, levels / 255),
    "infinite": lambda levels: torch.where(levels > 250, torch.inf, levels / 255),
    "integers": lambda levels: levels.long(),
    "complex": lambda levels: levels / 255 + 0j,
    "none at all": lambda levels: levels[:0] / 255,
    "too few axes": lambda levels: levels[0, 0] / 255,
    "lists of several lengths": lambda _: [[0.5], [0.5, 0.5]],
}
SPECIFIED = {
    "other channels": lambda levels: levels[:, :1] / 255,
    "other size": lambda levels: levels[..., :-1] / 255,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A public function of images, called with one argument that is to be checked."""

    call: Callable[[Any], Any]
    argument: str = "images"
    specified: bool = False
    """Whether the images must have a network's channels and size."""
    harmless: bool = True
    """Whether to call it with harmless kinds too; not where it needs what a test has not."""
    skipped: tuple[str, ...] = ()
    """Kinds that mean something else there."""


def _deep(**options: Any) -> ik.DeepInversionConfig:
    return ik.DeepInversionConfig(steps=1, low_resolutions=(), jitter=0, **options)


def _judge(images: Any, real: Any = CLEAN) -> Any:
    scores = metrics.Judge(target=TARGET, verifiers={"other": VERIFIER}, real=real)(images, LABELS)
    return {name: value for name, value in scores.items() if value == value}  # one image of a class has no diversity


def _pair_judge(images: Any, real: Any = OTHERS) -> Any:
    return metrics.PairJudge(real=real, labels=LABELS, verifiers={"other": VERIFIER})(images)


def _distil(images: Any) -> Any:
    config = ik.DistillationConfig(steps=1, batch_size=2, warmup=0)
    return ik.distil(TARGET, _student(), images, LABELS, config)[1].history


def _student() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4))


def _deepsim(images: Any) -> Any:
    return ik.deepsim(TARGET, images, "conv2", ik.DeePSiMConfig(steps=1, batch_size=2, width=4))[1].history


def _feedforward(images: Any) -> Any:
    config = ik.FeedforwardConfig(steps=1, batch_size=2, width=4, discriminator_steps=1)
    return ik.feedforward_inversion(TARGET, images, config)[1].history


def _divide(images: Any) -> Any:
    config = ik.DCIConfig(steps=1, fine_tune_steps=1, batch_size=2, stages=1, restarts=0)
    return ik.divide_and_conquer(TARGET, images, config)[1].stages[0].fits["train"].history


def _store(images: Any) -> Any:
    from invkit.partition.chain import partition_network
    from invkit.partition.feature_store import FeatureStore

    with FeatureStore(partition_network(TARGET), images, batch_size=2) as store:
        return store.batch(torch.arange(2))


def _chain(images: Any) -> Any:
    from invkit.partition.chain import partition_network

    return partition_network(TARGET).read(images)


def _leakage(images: Any = CLEAN, train: Any = CLEAN, heldout: Any = OTHERS) -> Any:
    leakage = metrics.measure_leakage(images, train, heldout, draws=10)
    return leakage.gap, leakage.to_train


def _scores(inside: Any = CLEAN, outside: Any = 1 - CLEAN) -> Any:
    train = ik.Split(pixels=LEVELS.repeat(4, 1, 1, 1), labels=LABELS.repeat(4))
    return metrics.compare_scores(TARGET, train, inside, outside)


def _encode(images: torch.Tensor) -> torch.Tensor:
    return images.mean((2, 3))[:, :2]


GENERATOR = ik.GeneratorTarget(
    nn.Sequential(nn.Linear(2, 3 * SIZE * SIZE), nn.Sigmoid(), nn.Unflatten(1, (3, SIZE, SIZE))), ik.LatentSpec(2)
)
DREAM = ik.DeepDreamConfig(steps=1, octaves=1)
FEATURES = torch.rand(4, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
MATCH = ik.FeatureInversionConfig(steps=1, match=1.0)
DATASET = ("lists", "list of tensors")  # a list is a data set there, whose items are images

CASES = {
    # methods
    "deep_inversion": Case(
        call=lambda x: ik.deep_inversion(TARGET, LABELS, _deep(), init=x).images,
        argument="init", specified=True, skipped=("None",),
    ),
    "class_inversion": Case(
        call=lambda x: ik.class_inversion(TARGET, LABELS, DREAM, init=x).images,
        argument="init", specified=True, skipped=("None",),
    ),
    "plug_in_inversion": Case(
        call=lambda x: ik.plug_in_inversion(TARGET, LABELS, ik.PlugInConfig.for_profile("ci", steps=1), init=x).images,
        argument="init", specified=True, skipped=("None",),
    ),
    "feature_inversion": Case(
        call=lambda x: ik.feature_inversion(TARGET, FEATURES, "conv1", MATCH, init=x).images,
        argument="init", specified=True, skipped=("None",),
    ),
    "layer_features": Case(call=lambda x: ik.methods.layer_features(TARGET, x, "conv1"), specified=True),
    "deep_dream": Case(call=lambda x: ik.deep_dream(TARGET, x, "conv1", DREAM).images),
    "distil": Case(call=_distil, specified=True),
    "deepsim": Case(call=_deepsim, specified=True),
    "feedforward_inversion": Case(call=_feedforward, specified=True),
    "divide_and_conquer": Case(call=_divide, specified=True, skipped=DATASET),
    # networks and their parts
    "Target.check": Case(call=TARGET.check, specified=True),
    "calibrate": Case(call=lambda x: ik.networks.calibrate(TARGET, x).module.bn1.running_mean, specified=True),
    "quantise_network": Case(call=lambda x: ik.networks.quantise_network(TARGET, x)(CLEAN), specified=True),
    "move_statistics": Case(
        call=lambda x: ik.networks.move_statistics(VERIFIER, VERIFIER, x).module.bn1.running_mean, specified=True
    ),
    "FeatureStore": Case(call=_store, specified=True, skipped=DATASET),
    "Chain.read": Case(call=_chain, specified=True, skipped=("NaN", "infinite", "none at all")),  # runs in each step
    # metrics
    "psnr": Case(call=lambda x: metrics.psnr(x, OTHERS), argument="images_a"),
    "psnr, second": Case(call=lambda x: metrics.psnr(OTHERS, x), argument="images_b"),
    "ssim": Case(call=lambda x: metrics.ssim(x, OTHERS), argument="images_a"),
    "lpips_distance": Case(
        call=lambda x: metrics.lpips_distance(x, CLEAN), argument="images_a", harmless=False
    ),
    "fid": Case(call=lambda x: metrics.fid(x, CLEAN), argument="images_a", harmless=False),
    "accuracy": Case(call=lambda x: metrics.accuracy(TARGET, x, LABELS), specified=True),
    "probabilities": Case(call=lambda x: metrics.probabilities(TARGET, x), specified=True),
    "in_batches": Case(call=lambda x: metrics.in_batches(TARGET, x, 3), specified=True),
    "in_batches, a function": Case(call=lambda x: metrics.in_batches(lambda y: y.mean((1, 2, 3)), x)),
    "inception_score": Case(call=lambda x: metrics.inception_score(TARGET, x), specified=True, skipped=("None",)),
    "saturated_fraction": Case(call=metrics.saturated_fraction, skipped=("too few axes",)),
    "roughness": Case(call=metrics.roughness),
    "statistics_penalty": Case(call=lambda x: metrics.statistics_penalty(TARGET, x)),
    "Judge": Case(call=_judge, specified=True),
    "Judge, real": Case(call=lambda x: _judge(CLEAN, x), argument="real"),
    "PairJudge": Case(call=_pair_judge, specified=True),
    "PairJudge, real": Case(call=lambda x: _pair_judge(OTHERS, x), argument="real"),
    "saliency": Case(call=lambda x: metrics.saliency(TARGET, x, LABELS), specified=True),
    "low_frequency_share": Case(call=metrics.low_frequency_share),
    "stretch_contrast": Case(call=metrics.stretch_contrast),
    "measure_leakage": Case(call=lambda x: _leakage(images=x)),
    "measure_leakage, train": Case(call=lambda x: _leakage(train=x), argument="train"),
    "measure_leakage, heldout": Case(call=lambda x: _leakage(heldout=x), argument="heldout"),
    "baselines": Case(call=lambda x: metrics.baselines(x, LABELS, CLEAN, LABELS)),
    "baselines, train": Case(call=lambda x: metrics.baselines(CLEAN, LABELS, x, LABELS), argument="train"),
    "similarities": Case(call=lambda x: metrics.similarities(x, CLEAN)),
    "similarities, others": Case(call=lambda x: metrics.similarities(CLEAN, x), argument="others"),
    "compare_scores": Case(call=lambda x: _scores(inside=x), argument="images of the distribution", specified=True),
    "compare_scores, outside": Case(
        call=lambda x: _scores(outside=x), argument="images outside the distribution", specified=True
    ),
    "reproject": Case(call=lambda x: metrics.reproject(GENERATOR, _encode, x)),
    "refine_codes": Case(call=lambda x: metrics.refine_codes(GENERATOR, torch.ones(4, 2), x, steps=2)),
    # pictures
    "image_grid": Case(call=lambda x: show.image_grid(x).alt, argument="image_grid: .*images"),
    "image_rows": Case(call=lambda x: show.image_rows({"a": x}).alt, argument="image_rows, row 'a': .*images"),
    # attacks
    "pgd": Case(call=lambda x: attacks.pgd(TARGET, x, LABELS, eps=0.1, steps=2), specified=True),
    "fgsm": Case(call=lambda x: attacks.fgsm(TARGET, x, LABELS, eps=0.1), specified=True),
    "random_perturbation": Case(call=lambda x: attacks.random_perturbation(x, 0.1)),
    "robust_accuracy": Case(
        call=lambda x: attacks.robust_accuracy(TARGET, x, LABELS, eps=0.1, steps=2), specified=True
    ),
    # data
    "quantise": Case(call=data.quantise, skipped=("too few axes",)),
    "to_pil": Case(
        call=lambda x: np.asarray(data.to_pil(x[0] if len(x) else x)).astype(float), argument="image",
        skipped=("None", "text", "lists of several lengths", "too few axes", "list of tensors"),
    ),
    "shifted": Case(call=data.shifted),
    "pad_with_noise": Case(
        call=lambda x: transforms.pad_with_noise(x, (16, 16), ik.seeded(0)), argument="patch"
    ),
}  # fmt: skip

# What runs at every step inside a graph takes float tensors as they are and looks at their rank alone.
INSIDE_A_GRAPH: dict[str, Callable[[Any], Any]] = {
    "total_variation": priors.total_variation,
    "l2": priors.l2,
    "squared_variation": priors.squared_variation,
    "out_of_range": priors.out_of_range,
    "resize_images": lambda x: transforms.resize_images(x, (6, 6)),
    "apply_jitter": lambda x: transforms.apply_jitter(x, transforms.draw_jitter(4, 1, 0.5, ik.seeded(0))),
    "undo_jitter": lambda x: transforms.undo_jitter(x, transforms.draw_jitter(4, 1, 0.5, ik.seeded(0))),
    "ColorShift": lambda x: transforms.ColorShift.draw(4, 2, 3, 0.1, 0.1, ik.seeded(0))(x),
    "RandomViews": lambda x: transforms.RandomViews(nn.Identity())(4, 2, ik.seeded(0))(x),
}


def _rows(kinds: dict[str, Any], specified_kinds: dict[str, Any], harmless: bool) -> list[Any]:
    rows = []
    for name, case in CASES.items():
        if harmless and not case.harmless:
            continue
        chosen = kinds | (specified_kinds if case.specified else {})
        rows += [pytest.param(case, chosen[kind], id=f"{name}-{kind}") for kind in chosen if kind not in case.skipped]
    return rows


@pytest.mark.parametrize(("case", "kind"), _rows(HARMLESS, {}, harmless=True))
def test_harmless_images_are_converted(case: Case, kind: Callable[[torch.Tensor], Any]) -> None:
    images = kind(LEVELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = case.call(images)
    _same(answer, case.call(CLEAN))


@pytest.mark.parametrize(("case", "kind"), _rows(HARMFUL, SPECIFIED, harmless=False))
def test_other_images_are_named_in_one_sentence(case: Case, kind: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        case.call(kind(LEVELS))
    _is_a_sentence(str(caught.value), case.argument)


@pytest.mark.parametrize("function", INSIDE_A_GRAPH.values(), ids=INSIDE_A_GRAPH)
def test_inside_a_graph_the_graph_is_kept(function: Callable[[Any], Any]) -> None:
    images = CLEAN.clone().requires_grad_()
    function(images).sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize("kind", ["None", "text", "integers", "too few axes"])
@pytest.mark.parametrize("function", INSIDE_A_GRAPH.values(), ids=INSIDE_A_GRAPH)
def test_inside_a_graph_the_rank_is_checked(function: Callable[[Any], Any], kind: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        function(HARMFUL[kind](LEVELS))
    _is_a_sentence(str(caught.value), "images")


def _is_a_sentence(message: str, argument: str) -> None:
    assert re.match(rf"{argument}\b", message), f"{message!r} does not begin with the argument {argument}"
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message), message


def _same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, str):
        assert one == other
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            _same(a, b)
    else:
        one, other = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
