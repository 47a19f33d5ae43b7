"""The image loop: repeatable, resumable, interruptible, and honest about what went wrong."""

import dataclasses
import functools
import json
import math
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from invkit.core.files import load_state
from invkit.core.rng import seeded
from invkit.engine.image_loop import LoopConfig, optimise_images
from invkit.engine.multiscale import low_resolution_stages
from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.objective import Objective
from invkit.transforms.jitter import apply_jitter, draw_jitter
from invkit.transforms.resize import initial_images

FAST = {"steps": 12, "lr": 0.03, "jitter": 1, "flip": 0.5, "log_every": 4, "checkpoint_every": 4}


def objective_for(target, n=4, batch_norm=0.1, **more):
    return Objective(
        network=target,
        terms={"ce": (1.0, lambda b: losses.cross_entropy(b.outputs, b.references))} | more,
        priors=priors.image_prior(0.01, 0.0),
        references=torch.arange(n) % target.spec.n_classes,
        penalty=BatchNormPenalty(target) if batch_norm else None,
        penalty_weight=batch_norm,
    )


def run(target, config=None, *, seed=0, n=4, objective=None, low=(), **options):
    generator = seeded(seed)
    images = initial_images(n, target.spec.shape, generator)
    config = config or LoopConfig(**FAST)
    if low:
        options["stages"] = low_resolution_stages(low, target.spec.size, config.steps)
    return optimise_images(objective or objective_for(target, n), images, config, generator=generator, **options)


def same(a, b):
    assert torch.equal(a.images, b.images)
    assert a.history == b.history
    assert a.best_step == b.best_step
    assert len(a.stages) == len(b.stages)
    assert all(torch.equal(x, y) for x, y in zip(a.stages, b.stages))


def test_a_seed_gives_the_same_bits(target):
    first, second, third = run(target), run(target), run(target, seed=1)
    same(first, second)
    assert not torch.equal(first.images, third.images)
    assert first.seed == 0
    assert third.seed == 1


def test_the_global_seed_plays_no_part(target):
    torch.manual_seed(1)
    first = run(target)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    same(first, run(target))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_step_by_hand(make_target):
    """Without jitter a step is Adam on the gradient of the loss, then a clamp."""
    target = make_target(dtype=torch.float64)
    start = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=seeded(0))
    config = LoopConfig(steps=3, lr=0.2, betas=(0.5, 0.9), schedule="cosine", log_every=100)
    by_hand = start.clone()
    m, v, seen = torch.zeros_like(start), torch.zeros_like(start), []
    objective = objective_for(target, batch_norm=0)
    for k in range(3):
        leaf = by_hand.clone().requires_grad_()
        ce = torch.nn.functional.cross_entropy(target(leaf), objective.references)
        loss = ce + 0.01 * priors.total_variation(leaf).mean()
        seen.append(loss.item())
        g = torch.autograd.grad(loss, leaf)[0]
        m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g * g
        lr = 0.2 * (1 + math.cos(math.pi * k / 3)) / 2
        by_hand = by_hand - lr * (m / (1 - 0.5 ** (k + 1))) / ((v / (1 - 0.9 ** (k + 1))).sqrt() + 1e-8)
        by_hand = by_hand.clamp(0, 1)
    live = []
    result = optimise_images(
        objective, start, config, generator=seeded(0), callbacks=[lambda s: live.append(s.images.clone())]
    )
    torch.testing.assert_close(live[-1], by_hand, rtol=1e-9, atol=1e-9)
    assert result.history["total"] == pytest.approx(seen, rel=1e-6)  # histories are kept in float32


def test_jitter_moves_what_the_network_sees_and_is_undone(target):
    """With a network whose loss does not see shifts or flips, jitter changes nothing but rounding."""
    objective = Objective(
        network=lambda x: x.mean((2, 3)),
        terms={
            "brightness": (1.0, lambda b: b.outputs.sum(1)),
            "energy": (1.0, lambda b: priors.l2(b.images)),
        },
        references=torch.zeros(4),
    )
    still = LoopConfig(steps=5, lr=0.01, log_every=100)
    moving = dataclasses.replace(still, jitter=3, flip=0.5)
    a, b = run(target, still, objective=objective), run(target, moving, objective=objective)
    torch.testing.assert_close(a.images, b.images, rtol=1e-5, atol=1e-5)


def test_the_history_is_the_weighted_terms(target):
    result = run(target)
    assert set(result.history) == {"ce", "tv", "batch_norm", "total"}
    assert all(len(v) == 12 for v in result.history.values())
    for k in range(12):
        parts = sum(result.history[name][k] for name in ("ce", "tv", "batch_norm"))
        assert result.history["total"][k] == pytest.approx(parts, rel=1e-6)
    assert result.best_step == min(range(12), key=result.history["total"].__getitem__)
    assert result.stopped == "steps"
    json.dumps(result.config)


def test_the_best_is_returned_and_no_alias(target):
    """A step size that spoils the images: the best ones must be those of the best step, not the last."""
    live = []
    grey = Objective(
        network=lambda x: x, references=torch.zeros(4),
        terms={"grey": (1.0, lambda b: priors.l2(b.images - 0.5))},
    )  # fmt: skip
    config = LoopConfig(steps=10, lr=0.5, schedule="constant", log_every=100)
    before = []

    def keep(step):
        before.append(step.images.clone())
        live.append(step.images)

    result = run(target, config, objective=grey, callbacks=[keep])
    start = initial_images(4, target.spec.shape, seeded(0))
    states = [start, *before]  # the loss of step k is that of the images before it
    assert torch.equal(result.images, states[result.best_step])
    assert result.best_step < 9
    live[-1].fill_(7)
    assert result.images.max() <= 1
    assert result.images.data_ptr() != live[-1].data_ptr()


def test_the_first_images_are_not_changed(target):
    start = initial_images(4, target.spec.shape, seeded(0))
    for layout in (torch.contiguous_format, torch.channels_last):
        images = start.clone(memory_format=layout)
        optimise_images(objective_for(target), images, LoopConfig(**FAST), generator=seeded(0))
        assert torch.equal(images, start)


def test_pixels_stay_in_range_when_clipped(target):
    seen = []
    config = LoopConfig(steps=8, lr=0.3, schedule="constant")
    run(target, config, callbacks=[lambda s: seen.append((float(s.images.min()), float(s.images.max())))])
    assert min(low for low, _ in seen) == 0
    assert max(high for _, high in seen) == 1
    seen.clear()
    free = dataclasses.replace(config, clip=False)
    run(target, free, callbacks=[lambda s: seen.append((float(s.images.min()), float(s.images.max())))])
    assert min(low for low, _ in seen) < -0.1
    assert max(high for _, high in seen) > 1.1


@pytest.mark.parametrize("batch_norm", [0, 0.1])
def test_five_steps_lower_the_loss(target, batch_norm):
    config = LoopConfig(steps=5, lr=0.02, log_every=100)
    history = run(target, config, objective=objective_for(target, batch_norm=batch_norm)).history["total"]
    assert history[-1] < history[0] - 1e-3


def test_micro_batches_follow_the_same_path(make_target):
    target = make_target(dtype=torch.float64)
    start = torch.rand(7, 3, 8, 8, dtype=torch.float64, generator=seeded(0))
    results = [
        optimise_images(objective_for(target, 7), start, LoopConfig(**FAST, micro_batch=m), generator=seeded(0))
        for m in (None, 3, 1)
    ]
    for other in results[1:]:
        torch.testing.assert_close(results[0].images, other.images, rtol=1e-7, atol=1e-7)
        assert results[0].history["total"] == pytest.approx(other.history["total"], rel=1e-9)


# ---- stages


def test_low_resolutions_come_first_and_grow_by_nearest(target):
    shapes, first = [], {}

    def watch(step):
        shapes.append((step.stage, tuple(step.images.shape[2:])))
        first.setdefault(step.stage, step.images.clone())

    config = LoopConfig(steps=3, lr=1e-12, log_every=1)
    result = run(target, config, low=((2, 2), (4, 1)), callbacks=[watch])
    assert shapes == [(0, (2, 2))] * 2 + [(1, (4, 4))] + [(2, (8, 8))] * 3
    assert [tuple(s.shape[2:]) for s in result.stages] == [(2, 2), (4, 4), (8, 8)]
    assert torch.equal(result.stages[-1], result.images)
    assert len(result.history["total"]) == 6
    # Nothing moved (lr is almost zero), so that full resolution shows the 2x2 pixels as blocks.
    blocks = result.stages[0].repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(result.images, blocks, rtol=0, atol=1e-6)
    start = initial_images(4, target.spec.shape, seeded(0))
    torch.testing.assert_close(result.stages[0], torch.nn.functional.avg_pool2d(start, 4), rtol=0, atol=1e-6)


def test_best_step_belongs_to_the_returned_images(target):
    config = LoopConfig(steps=4, lr=0.02, log_every=1)
    result = run(target, config, low=((4, 3),))
    assert 3 <= result.best_step < 7
    assert result.images.shape[2:] == (8, 8)


# ---- stopping


def test_a_callback_ends_the_run(target):
    seen = []
    calls = [lambda s: s.index == 3, lambda s: seen.append(s.losses()), lambda s: None]
    result = run(target, callbacks=calls)
    assert result.stopped == "callback"
    assert len(seen) == 4  # every callback is asked in every step, whatever the others say
    assert len(result.history["total"]) == 4
    assert set(seen[0]) == {"ce", "tv", "batch_norm", "total"}
    assert seen[2]["total"] == pytest.approx(result.history["total"][2], rel=1e-6)


def test_a_callback_may_ask_the_network(target):
    """Looking at the accuracy while the penalty's hooks are in place changes nothing."""

    def look(step):
        with torch.no_grad():
            target(step.images)

    same(run(target), run(target, callbacks=[look]))
    chunks = LoopConfig(**FAST, micro_batch=3)
    same(run(target, chunks), run(target, chunks, callbacks=[look]))


def test_interrupting_returns_the_best(target):
    def interrupt(step):
        if step.index == 5:
            raise KeyboardInterrupt

    whole = run(target, LoopConfig(**FAST | {"schedule": "constant"}))
    result = run(target, LoopConfig(**FAST | {"schedule": "constant"}), callbacks=[interrupt])
    assert result.stopped == "interrupted"
    assert result.history["total"] == whole.history["total"][:6]
    assert result.best_step == min(range(6), key=result.history["total"].__getitem__)
    assert all(not m._forward_pre_hooks for m in target.modules())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_term_that_is_not_finite_is_named(target, bad):
    calls = []

    def odd(batch):
        calls.append(1)
        value = batch.images.mean((1, 2, 3))
        return value * bad if len(calls) == 7 else value

    objective = objective_for(target, odd=(1.0, odd))
    result = run(target, LoopConfig(**FAST), objective=objective)
    assert result.stopped == "diverged"
    assert result.diverged
    assert result.reason == f"the term 'odd' became {bad} at step 6"
    assert result.images.isfinite().all()
    assert result.best_step < 7
    assert len(result.history["total"]) == 8  # noticed at the next look


def test_not_finite_from_the_start(target):
    objective = objective_for(target, odd=(1.0, lambda b: b.images.mean((1, 2, 3)) * math.nan))
    result = run(target, objective=objective)
    assert "'odd'" in result.reason
    assert "step 0" in result.reason
    assert torch.equal(result.images, initial_images(4, target.spec.shape, seeded(0)))


def constant_objective():
    """Nothing to gain: the loss never falls after the first step."""
    return Objective(
        network=lambda x: x.sum((2, 3)),
        terms={"flat": (1.0, lambda b: 0 * b.outputs.sum(1))},
        references=torch.zeros(4),
    )


def test_patience_ends_a_run_that_gains_nothing(target):
    config = LoopConfig(steps=100, patience=0.1, log_every=5)
    result = run(target, config, objective=constant_objective())
    assert result.stopped == "patience"
    assert 10 <= len(result.history["total"]) <= 20
    assert run(target, dataclasses.replace(config, patience=None), objective=constant_objective()).stopped == "steps"


def test_patience_ends_a_stage_not_the_run(target):
    """Images must come at full resolution even where a low one stopped gaining early."""
    config = LoopConfig(steps=40, patience=0.1, log_every=2)
    result = run(target, config, low=((4, 40),), objective=constant_objective())
    assert result.images.shape[2:] == (8, 8)
    assert result.stopped == "patience"
    assert len(result.history["total"]) < 80


def test_a_run_that_gains_does_not_stop(target):
    config = LoopConfig(steps=30, lr=1e-3, schedule="constant", patience=0.2, log_every=3)
    assert run(target, config).stopped == "steps"


def test_plateau_halves_the_step_size(target):
    moved, last = [], []
    objective = Objective(  # a slope that leads up: Adam moves each pixel by lr, and the loss never falls
        network=lambda x: x.sum((2, 3)).detach() - x.sum((2, 3)) + x.sum((2, 3)).detach(),
        terms={"up": (1.0, lambda b: b.outputs.sum(1))}, references=torch.zeros(4),
    )  # fmt: skip

    def watch(step):
        if last:
            moved.append(float((step.images - last[0]).abs().max()))
        last[:] = [step.images.clone()]

    config = LoopConfig(steps=40, lr=0.01, schedule="plateau", plateau_patience=0.25, log_every=5, clip=False)
    run(target, config, objective=objective, callbacks=[watch])
    rates = sorted({round(0.01 / m) for m in moved})
    assert rates == [1, 2, 4, 8]
    assert moved == pytest.approx(sorted(moved, reverse=True), rel=0, abs=1e-5)


# ---- checkpoints

LOW = ((4, 8),)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("stop", [5, 8, 9, 13, 18])
def test_resuming_gives_the_same_bits(target, tmp_path, stop, schedule):
    config = LoopConfig(**FAST | {"schedule": schedule, "plateau_patience": 0.2})
    whole = run(target, config, low=LOW)
    path = tmp_path / "run.pt"

    def crash(step):
        if step.index == stop:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(target, config, low=LOW, checkpoint=path, callbacks=[crash])
    state = load_state(path)
    assert 0 < state["done"] <= stop
    seen = []
    resumed = run(target, config, low=LOW, checkpoint=path, callbacks=[lambda s: seen.append(s.index)])
    assert seen[0] == state["done"]
    same(whole, resumed)
    assert not path.exists()  # a finished run leaves none


KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    from invkit.testing import tiny_target
    from test_image_loop import FAST, LOW, LoopConfig, run

    def kill(step):
        if step.index == 14:
            os.kill(os.getpid(), signal.SIGKILL)

    run(tiny_target(), LoopConfig(**FAST), low=LOW, checkpoint=sys.argv[1], callbacks=[kill])
"""


def test_resuming_after_kill_9(make_target, request, tmp_path):
    path, here = tmp_path / "run.pt", str(request.path.parent)
    code = textwrap.dedent(KILLED.format(tests=here))
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert load_state(path)["done"] == 12
    same(run(make_target(), low=LOW), run(make_target(), low=LOW, checkpoint=path))


@pytest.mark.parametrize("change", ["config", "labels", "seed", "terms", "size", "network"])
def test_a_checkpoint_of_another_run_is_refused(make_target, tmp_path, change):
    target, path = make_target(), tmp_path / "run.pt"
    stop = [lambda s: s.index == 5]
    run(target, LoopConfig(**FAST), checkpoint=path, callbacks=stop)
    kept = path.read_bytes()
    changes = {
        "config": {"config": LoopConfig(**FAST | {"lr": 0.5})},
        "labels": {"objective": dataclasses.replace(objective_for(target), references=torch.tensor([3, 2, 1, 0]))},
        "seed": {"seed": 1},
        "terms": {"objective": objective_for(target, batch_norm=0)},
        "size": {"target": make_target(size=(10, 10))},
        "network": {"target": make_target(seed=1)},
    }
    options = {"target": target, "config": LoopConfig(**FAST), "checkpoint": path} | changes[change]
    with pytest.raises(ValueError, match=r"run\.pt belongs to a run with another"):
        run(**options)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_broken_checkpoint_is_named(target, tmp_path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.pt"):
        run(target, checkpoint=path)


# ---- precision, compilation, configs


def test_bfloat16_runs_and_keeps_float32_pixels(target):
    result = run(target, LoopConfig(**FAST, bf16=True))
    assert result.images.dtype == torch.float32
    assert result.history["total"][-1] < result.history["total"][0]
    assert result.history["total"][0] == pytest.approx(run(target).history["total"][0], rel=0.05)


@pytest.mark.parametrize("features", [(0.1, 0.0, 0.2), (0.1,)])
def test_compiled_equals_eager(target, features, monkeypatch):
    """With and without the penalty: what was compiled for one run must not serve another.

    Three runs with the tracing alone, and one with code that is really generated.
    """
    if len(features) > 1:
        traced = functools.partial(torch.compile, backend="aot_eager")
        monkeypatch.setattr(torch, "compile", traced)
    config = LoopConfig(steps=3, lr=0.02, log_every=10)
    fast = dataclasses.replace(config, compile=True)
    for batch_norm in features:
        eager = run(target, config, objective=objective_for(target, batch_norm=batch_norm))
        compiled = run(target, fast, objective=objective_for(target, batch_norm=batch_norm))
        for name, values in eager.history.items():
            assert compiled.history[name] == pytest.approx(values, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(eager.images, compiled.images, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("lr", 0.0), ("lr", math.nan), ("lr", math.inf),
        ("betas", (0.9, 1.0)), ("betas", (0.9,)),
        ("schedule", "linear"), ("jitter", -1), ("flip", 1.5), ("micro_batch", 0), ("patience", 0.0),
        ("plateau_patience", -1.0), ("log_every", 0), ("checkpoint_every", 0), ("steps", 3.5), ("lr", "fast"),
        ("betas", None), ("flip", None), ("jitter", math.inf), ("jitter", math.nan),
    ],
)  # fmt: skip
def test_nonsense_in_a_config_is_named(field, value):
    with pytest.raises(ValueError, match=rf"LoopConfig: .*{field}"):
        LoopConfig(**{field: value})


def test_profiles():
    assert LoopConfig.for_profile("ci").steps < LoopConfig.for_profile("book").steps
    assert LoopConfig.for_profile("ci", steps=7).steps == 7
    with pytest.raises(ValueError, match="one of ci, book, paper, not 'fast'"):
        LoopConfig.for_profile("fast")
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoopConfig().steps = 3


def test_one_grey_image_of_odd_size(make_target):
    target = make_target(channels=1, size=(7, 5))
    result = run(target, n=1)
    assert result.images.shape == (1, 1, 7, 5)
    assert result.images.is_contiguous()


def test_a_run_that_ends_in_a_low_resolution_gives_images_of_the_full_size(make_target):
    target = make_target()
    config = LoopConfig(steps=3)
    objective = Objective(
        network=target, terms={"logit": (1.0, lambda b: b.outputs[:, 0])}, references=torch.zeros(2, dtype=torch.long)
    )
    images = torch.rand(2, 3, 8, 8)
    result = optimise_images(
        objective, images, config, generator=seeded(0), callbacks=[lambda step: True],
        stages=low_resolution_stages([(4, 3)], (8, 8), 3),
    )  # fmt: skip
    assert result.stopped == "callback"
    assert result.images.shape == (2, 3, 8, 8)
    assert torch.equal(result.images[..., ::2, ::2], result.images[..., 1::2, 1::2]), "nearest neighbours of 4 pixels"


@pytest.mark.parametrize("wrap", [True, False])
def test_a_step_with_jitter_by_hand(make_target, wrap):
    """The gradient at the jittered images, taken back to where the pixels are, is what Adam sees."""
    images, drawn = torch.rand(3, 3, 8, 8), seeded(5)
    config = LoopConfig(steps=2, jitter=3, flip=0.5, wrap=wrap, schedule="constant", lr=0.01, betas=(0.0, 0.0))
    target = make_target()
    objective = Objective(network=target, terms={"logit": (1.0, lambda b: b.outputs[:, 0])}, references=torch.zeros(3))
    seen = []
    optimise_images(
        objective, images, config, generator=seeded(5), callbacks=[lambda step: seen.append(step.images.clone())]
    )
    leaf = images.clone().requires_grad_()
    draw = draw_jitter(3, 3, 0.5, drawn)
    target(apply_jitter(leaf, draw, wrap))[:, 0].mean().backward()
    by_hand = (images - 0.01 * leaf.grad.sign() * (leaf.grad.abs() > 1e-7)).clamp(0, 1)
    torch.testing.assert_close(seen[0], by_hand, atol=2e-3, rtol=0)


@pytest.mark.parametrize("change", ["init", "generator"])
def test_a_checkpoint_knows_its_start(make_target, tmp_path, change):
    target, path = make_target(), tmp_path / "run.pt"
    config = LoopConfig(steps=6, log_every=2, checkpoint_every=2)
    objective = Objective(network=target, terms={"logit": (1.0, lambda b: b.outputs[:, 0])}, references=torch.zeros(2))
    images = torch.rand(2, 3, 8, 8)
    stop = [lambda step: step.index == 3]
    optimise_images(objective, images, config, generator=seeded(0), callbacks=stop, checkpoint=path)
    assert path.exists()
    other = seeded(0)
    if change == "generator":
        torch.rand(3, generator=other)  # the same seed, but not the same state
    start = images if change == "generator" else images / 2
    with pytest.raises(ValueError, match="another"):
        optimise_images(objective, start, config, generator=other, checkpoint=path)


def test_a_term_that_is_not_finite_is_named_before_any_other_reason(make_target):
    objective = Objective(
        network=make_target(), terms={"broken": (1.0, lambda b: b.outputs[:, 0] * math.nan)}, references=torch.zeros(2)
    )
    for reason in (lambda step: True, _interrupt):
        result = optimise_images(
            objective, torch.rand(2, 3, 8, 8), LoopConfig(steps=9), generator=seeded(0), callbacks=[reason]
        )
        assert "'broken'" in result.reason
        assert result.images.isfinite().all()


def _interrupt(step):
    raise KeyboardInterrupt


def test_every_end_has_a_word_and_a_sentence(target):
    slow = LoopConfig(steps=40, patience=0.1, log_every=2)
    ends = {
        "steps": run(target),
        "patience": run(target, slow, objective=constant_objective()),
        "callback": run(target, callbacks=[lambda step: step.index == 3]),
        "interrupted": run(target, callbacks=[_interrupt]),
    }
    for word, result in ends.items():
        assert result.stopped == word
        assert not result.diverged
        assert result.reason
    assert "step 3" in ends["callback"].reason


def test_the_last_images_may_be_asked_for(target):
    """Where losses do not compare, the last step counts; a run that diverged still gives the best."""
    seen = []
    result = run(target, callbacks=[lambda step: seen.append(step.images.clone())], pick="last")
    assert torch.equal(result.images, seen[-1])
    assert result.best_step == len(seen)
    objective = objective_for(target, odd=(1.0, lambda batch: batch.images.mean((1, 2, 3)) * math.nan))
    assert torch.equal(
        run(target, objective=objective, pick="last").images, initial_images(4, target.spec.shape, seeded(0))
    )
