"""Methods side by side: one protocol for several methods and seeds."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invkit.analysis.seed_rows import Lead, SeedRows
from invkit.core.config import config_hash, plain
from invkit.core.device import progress
from invkit.core.files import digest
from invkit.core.results import DivergedError, InversionResult
from invkit.core.rng import seeded

Method = Callable[[Any, torch.Generator], Tensor | InversionResult]
"""Inverts references (labels, features, logits) with a generator; the images may come alone or in their record."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One method at one seed: what it made and how that was scored, or why there is nothing.

    >>> Run(method="a", seed=0, scores={"x": 3.0}).failure
    ''
    """

    method: str
    """Its name in the comparison."""
    seed: int
    """Of its generator."""
    result: InversionResult | None = None
    """The images, with their record where the method gave one; ``seconds`` are those of the whole call."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The judge's, and ``seconds``."""
    failure: str = ""
    """Why it gave no scores; empty where it did."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several methods at several seeds, as :func:`compare` gives them.

    >>> runs = (Run(method="a", seed=0, scores={"x": 3.0}), Run(method="b", seed=0, scores={"x": 1.0}))
    >>> print(Comparison(runs).lead("x", "a", "b"))
    2 (one seed: no interval)
    """

    runs: tuple[Run, ...]
    """Method after method, seed after seed."""

    @cached_property
    def results(self) -> dict[str, list[InversionResult]]:
        """The records of each method, one for each seed that it finished; ``images`` are in them.

        >>> noise = lambda labels, generator: torch.rand(len(labels), 1, 4, 4, generator=generator)
        >>> comparison = compare({"noise": noise}, torch.arange(2), lambda images: {}, seeds=(0, 3))
        >>> [record.seed for record in comparison.results["noise"]]
        [0, 3]
        """
        return {name: [run.result for run in runs if run.result is not None] for name, runs in self._finished.items()}

    @property
    def images(self) -> dict[str, Tensor]:
        """Each method's images ``(N, C, H, W)`` at the first seed that it finished; without those that kept none.

        >>> noise = lambda labels, generator: torch.rand(len(labels), 1, 4, 4, generator=generator)
        >>> compare({"noise": noise}, torch.arange(2), lambda images: {}).images["noise"].shape
        torch.Size([2, 1, 4, 4])
        """
        return {name: results[0].images for name, results in self.results.items() if results}

    @cached_property
    def scores(self) -> SeedRows:
        """The scores of each method, one mapping for each seed that it finished.

        >>> Comparison((Run(method="a", seed=0, scores={"x": 3.0}),)).scores
        {'a': [{'x': 3.0}]}
        """
        return SeedRows({name: [run.scores for run in runs] for name, runs in self._finished.items()})

    @property
    def failures(self) -> dict[str, str]:
        """Methods that finished with no seed, or ``method, seed 3`` that failed at one, with the reason.

        >>> runs = (Run(method="a", seed=0, scores={"x": 3.0}), Run(method="b", seed=0, failure="no batch norm"))
        >>> Comparison(runs).failures
        {'b': 'no batch norm'}
        """
        failed = [run for run in self.runs if run.failure]
        return {
            f"{run.method}, seed {run.seed}" if run.method in self._finished else run.method: run.failure
            for run in failed
        }

    def table(self) -> dict[str, list[dict[str, float]] | dict[str, str]]:
        """Rows for :func:`invkit.show.table`, which tells each score as mean ± standard deviation over the seeds.

        Returns:
            Each method's scores, one mapping for each seed; after them, what failed with the reason.

        >>> runs = (Run(method="a", seed=0, scores={"x": 3.0}), Run(method="b", seed=0, failure="no batch norm"))
        >>> Comparison(runs).table()
        {'a': [{'x': 3.0}], 'b': {'failed': 'no batch norm'}}
        """
        rows: dict[str, list[dict[str, float]] | dict[str, str]] = {}
        rows |= {name: [dict(scores) for scores in seeds] for name, seeds in self.scores.items()}
        return rows | {name: {"failed": reason} for name, reason in self.failures.items()}

    def mean(self, name: str, key: str) -> float:
        """Mean of a score over the seeds; see :meth:`SeedRows.mean`.

        Args:
            name: The method.
            key: The score.

        Returns:
            The mean.

        >>> runs = (Run(method="a", seed=0, scores={"x": 3.0}), Run(method="a", seed=1, scores={"x": 5.0}))
        >>> Comparison(runs).mean("a", "x")
        4.0
        """
        return self.scores.mean(name, key)

    def deviation(self, name: str, key: str) -> float:
        """Standard deviation of a score over the seeds, nan for one seed; see :meth:`SeedRows.deviation`.

        Args:
            name: The method.
            key: The score.

        Returns:
            The deviation.

        >>> runs = (Run(method="a", seed=0, scores={"x": 3.0}), Run(method="a", seed=1, scores={"x": 5.0}))
        >>> Comparison(runs).deviation("a", "x") ** 2
        2.0000...
        """
        return self.scores.deviation(name, key)

    def lead(self, key: str, first: str, second: str, level: float = 0.95) -> Lead:
        """By how much ``first`` is above ``second``, with an interval, over the seeds that both finished.

        Args:
            key: The score.
            first: A method.
            second: The method that it is compared with.
            level: Confidence of the interval, in (0, 1).

        Returns:
            The mean difference and its interval; see :meth:`SeedRows.lead`.

        Raises:
            ValueError: For a level outside (0, 1), or methods that finished no seed in common.

        >>> rows = [("a", 0, 3.0), ("a", 1, 5.0), ("b", 0, 1.0), ("b", 1, 4.0)]
        >>> runs = tuple(Run(method=m, seed=s, scores={"x": x}) for m, s, x in rows)
        >>> print(Comparison(runs).lead("x", "a", "b"))
        1.5 [-4.85, 7.85] (95%, 2 seeds)
        """
        return self._paired(first, second).lead(key, first, second, level)

    def worst_lead(self, key: str, first: str, second: str) -> float:
        """The smallest lead of ``first`` over ``second`` at any seed that both finished.

        Args:
            key: The score.
            first: A method.
            second: The method that it is compared with.

        Returns:
            The smallest difference.

        Raises:
            ValueError: For methods that finished no seed in common.

        >>> rows = [("a", 0, 3.0), ("a", 1, 5.0), ("b", 0, 1.0), ("b", 1, 4.0)]
        >>> runs = tuple(Run(method=m, seed=s, scores={"x": x}) for m, s, x in rows)
        >>> Comparison(runs).worst_lead("x", "a", "b")
        1.0
        """
        return self._paired(first, second).worst_lead(key, first, second)

    @property
    def _finished(self) -> dict[str, list[Run]]:
        finished: dict[str, list[Run]] = {}
        for run in self.runs:
            if not run.failure:
                finished.setdefault(run.method, []).append(run)
        return finished

    def _paired(self, *names: str) -> SeedRows:
        """The rows of ``names``, at the seeds that all of them finished."""
        by_seed = {name: {run.seed: run.scores for run in self._finished.get(name, [])} for name in names}
        common = [seed for seed in by_seed[names[0]] if all(seed in rows for rows in by_seed.values())]
        return SeedRows({name: [rows[seed] for seed in common] for name, rows in by_seed.items()})


def compare(
    methods: Mapping[str, Method],
    references: Tensor | Sequence[Any],
    judge: Callable[..., Mapping[str, float]],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    folder: str | Path | None = None,
) -> Comparison:
    """Run each method on the same references with each seed, and let one judge score all images.

    A method that raises ``ValueError`` or ``ArithmeticError``, diverges, or gives images that cannot be scored, becomes
    a row with the reason, and the others go on.

    Args:
        methods: Names to callables ``(references, generator)`` that return images ``(N, C, H, W)`` in [0, 1] or an
            :class:`~invkit.core.results.InversionResult`. Their randomness must come from the generator, which is
            fresh for each run. Any callable will do, so a method of your own is one more entry.
        references: What is inverted, one for each image: labels, features, logits.
        judge: Callable ``(images, references)`` or ``(images)`` that returns numbers by name, as
            :class:`~invkit.metrics.judge.Judge` and :class:`~invkit.metrics.judge.PairJudge` are.
        seeds: One run of each method for each of them.
        folder: Where finished images are kept. A run found there is judged, not repeated. It is known by the method's
            name, the seed and the references, so give a method that you changed another name or folder.

    Returns:
        Images, records and scores of all runs.

    Raises:
        ValueError: For no methods, no seeds, a seed named twice, or where every run failed.
        KeyboardInterrupt: Where a run is interrupted; with ``folder`` the finished ones are kept.

    >>> from invkit import DeepDreamConfig, class_inversion
    >>> from invkit.testing import tiny_target
    >>> target, config = tiny_target(), DeepDreamConfig(steps=10, lr=0.05)
    >>> methods = {
    ...     "DeepDream": lambda labels, generator: class_inversion(target, labels, config, generator=generator),
    ...     "noise": lambda labels, generator: torch.rand(len(labels), 3, 8, 8, generator=generator),
    ... }
    >>> def judge(images, labels):
    ...     return {"error": float(torch.nn.functional.cross_entropy(target(images), labels))}
    >>> compare(methods, torch.arange(4), judge).lead("error", "noise", "DeepDream").certain
    True
    """
    if not methods or not seeds:
        raise ValueError(f"a comparison needs methods and seeds, not {len(methods)} methods and {len(seeds)} seeds")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must differ, not {list(seeds)}")
    with_references = _takes_two(judge)
    runs = []
    cells = list(itertools.product(methods, seeds))
    for name, seed in progress(cells, len(cells), "comparing"):
        path = Path(folder) / config_hash([name, seed, _plain_references(references)]) if folder else None
        try:
            result = _invert(methods[name], references, seed, path)
            scores = judge(result.images, references) if with_references else judge(result.images)
        except (ValueError, ArithmeticError, DivergedError) as error:
            runs.append(Run(method=name, seed=seed, failure=str(error) or type(error).__name__))
        else:
            scores = dict(scores) | {"seconds": result.seconds}
            runs.append(Run(method=name, seed=seed, result=result, scores=scores))
    comparison = Comparison(tuple(runs))
    if not comparison.scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in comparison.failures.items())
        raise ValueError(f"no method gave images that could be scored: {reasons}")
    return comparison


def _invert(method: Method, references: Any, seed: int, folder: Path | None) -> InversionResult:
    """The record of one run, from ``folder`` where it is there."""
    if folder is not None and (folder / "result.json").exists():  # written last
        return InversionResult.load(folder)
    start = time.perf_counter()
    output = method(references, seeded(seed))
    result = output if isinstance(output, InversionResult) else _record(output, seed)  # waits for the device
    seconds = time.perf_counter() - start
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    if result.diverged:
        raise DivergedError(result.reason)
    _check_images(result.images, references)
    result = replace(result, seconds=seconds)
    if folder is not None:
        result.save(folder)
    return result


def _record(images: Any, seed: int) -> InversionResult:
    """A record of images that came without one."""
    if not isinstance(images, Tensor):
        raise ValueError(f"a method must give images (N, C, H, W) or an InversionResult, not {type(images).__name__}")
    return InversionResult(
        images=images.detach().cpu(), labels=None, history={}, best_step=0, config={}, seed=seed, seconds=0.0,
        device=str(images.device), stopped="steps",
    )  # fmt: skip


def _check_images(images: Tensor, references: Any) -> None:
    if images.ndim != 4:
        raise ValueError(f"a method must give images (N, C, H, W), not {tuple(images.shape)}")
    if len(images) != len(references):
        raise ValueError(f"a method must give one image for each of {len(references)} references, not {len(images)}")
    if not images.isfinite().all():
        raise ValueError("the images hold values that are not finite")


def _takes_two(judge: Callable[..., Any]) -> bool:
    try:
        inspect.signature(judge).bind(None, None)
    except TypeError:
        return False
    return True


def _plain_references(references: Any) -> Any:
    if isinstance(references, Tensor):
        return [list(references.shape), digest(references)]
    return plain(list(references))
