"""All sections within a time, each kept as soon as it is done, and the page that is made of them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from invkit.core.config import config_hash
from invkit.core.files import digest
from invkit.core.results import DivergedError
from invkit.networks.own import start_folder
from invkit.report.case import Case
from invkit.report.images import open_images
from invkit.report.network import open_network
from invkit.report.page import write_page
from invkit.report.section import Section
from invkit.report.sections import classes, depth, drawn, identity, leak, remedies

Ask = Callable[[Case, float], Section]

SECTIONS: dict[str, tuple[Ask, str, float]] = {
    "identity": (identity, "Who it is", 0.02),
    "drawn": (drawn, "What can be drawn from the weights alone", 0.35),
    "depth": (depth, "From how deep can the image be brought back?", 0.2),
    "classes": (classes, "What it takes for each class, and for garbage", 0.03),
    "leak": (leak, "Does it leak its training images?", 0.2),
    "remedies": (remedies, "What would help", 0.2),
}
"""By name the question, its title and its part of the time; in the order of the report."""


@dataclass(kw_only=True, eq=False)
class Report:
    """A report on a network, made section by section.

    Args:
        case: The network and its images.
        minutes: Time for all sections together; a section cannot be shorter than what gives it a meaning.
        folder: Where sections are kept; a report that was broken off goes on from there. None keeps nothing.
        notes: What was noticed on opening network and images.

    >>> from invkit.report.images import Pair
    >>> from invkit.testing import tiny_target
    >>> report = Report(case=Case(target=tiny_target(), pair=Pair(), classes=(0, 1), least=True))
    >>> report.ask("identity").numbers["classes"]
    4
    """

    case: Case
    minutes: float = 10.0
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    sections: dict[str, Section] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes must be positive, not {self.minutes}")
        self.case.done = self.sections
        self.case.budget = 60 * self.minutes

    def ask(self, name: str) -> Section:
        """One section: from the folder where it is there, else asked now; what cannot be answered says why.

        Args:
            name: One of :data:`SECTIONS`.

        Returns:
            The section, which is also kept in :attr:`sections`.

        Raises:
            ValueError: For an unknown name.
        """
        if name not in SECTIONS:
            raise ValueError(f"name must be one of {', '.join(SECTIONS)}, not {name!r}")
        section = Section.load(self.folder, name) if self.folder is not None else None
        if section is None:
            section = self._asked(name)
            if self.folder is not None and not section.skipped:
                section.save(self.folder)
        self.sections[name] = section
        return section

    def _asked(self, name: str) -> Section:
        question, title, part = SECTIONS[name]
        ahead = sum(weight for other, (_, _, weight) in SECTIONS.items() if other not in self.sections)
        start = time.perf_counter()
        try:
            section = question(self.case, self.left * part / ahead)
        except (ValueError, RuntimeError, ArithmeticError, DivergedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            section = Section(name=name, title=title, skipped=reason)
        section.seconds = time.perf_counter() - start
        return section

    @property
    def left(self) -> float:
        """Seconds of the time that are left; never less than one."""
        return max(1.0, 60 * self.minutes - sum(section.seconds for section in self.sections.values()))

    def run(self, only: Iterable[str] | None = None) -> Report:
        """All sections, or some, in turn, with a line of progress for each."""
        for name in SECTIONS if only is None else only:
            print(f"{SECTIONS[name][1]} ...", file=sys.stderr, flush=True)
            section = self.ask(name)
            state = f"left out: {section.skipped}" if section.skipped else section.summary
            print(f"  {section.seconds:.0f} s. {state}", file=sys.stderr, flush=True)
        return self

    @property
    def summary(self) -> list[str]:
        """A sentence of each section that could be answered."""
        return [section.summary for section in self.sections.values() if section.summary]

    @property
    def cost(self) -> dict[str, dict[str, str]]:
        """Seconds of each section, and the most memory that the process held."""
        rows = {section.title: {"seconds": f"{section.seconds:.0f}"} for section in self.sections.values()}
        total = sum(section.seconds for section in self.sections.values())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return rows | {"together": {"seconds": f"{total:.0f}", "most memory, GiB": f"{memory:.1f}"}}

    def write(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs nothing else.

        Args:
            path: The file; a relative one is meant from the folder that the reader started from.

        Returns:
            Its path.

        Raises:
            OSError: Where it cannot be written.
        """
        return write_page(start_folder() / path, self.case, self.sections, self.summary, self.notes, self.cost)


def open_report(
    network: str,
    weights: str = "",
    data: str = "",
    heldout: str = "",
    *,
    spec: str = "",
    judge: str = "",
    judge_weights: str = "",
    classes: Iterable[int] = (),
    minutes: float = 10.0,
    folder: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    least: bool = False,
) -> Report:
    """Open a network of one's own and what belongs to it; nothing is asked yet.

    Args:
        network: See :func:`~invkit.report.network.open_network`, as are ``weights`` and ``spec``.
        weights: A file.
        data: Training images, see :func:`~invkit.report.images.open_images`.
        heldout: Images that were not trained on.
        spec: A JSON file.
        judge: Another network for the same classes that took no part.
        judge_weights: Its file.
        classes: Those that images are drawn for; by default ten, evenly spread.
        minutes: Time for all sections.
        folder: Where sections are kept, below it a folder for this network, these images and settings.
        seed: Of all randomness.
        device: Where networks run.
        least: Fewest steps of everything, to see that all runs.

    Returns:
        The report to be.

    Raises:
        ValueError: For what does not fit together, in one sentence.
        FileNotFoundError: For a file that is not there.

    >>> report = open_report("invkit.testing:TinyNet", spec="nowhere.json")
    Traceback (most recent call last):
    FileNotFoundError: no image specification at ...nowhere.json
    """
    data, heldout = _placed(data), _placed(heldout)
    opened = open_network(network, weights, spec=spec, data=data, device=device)
    target = opened.target
    pair = open_images(data, heldout, target.spec, seed=seed)
    chosen = tuple(classes) or _spread(target.spec.n_classes)
    target.spec.check_labels(list(chosen))
    other = None
    if judge:
        other = open_network(judge, judge_weights, device=device).target
        if other.spec.n_classes != target.spec.n_classes:
            raise ValueError(
                f"the judge {judge} knows {other.spec.n_classes:,} classes and {network} {target.spec.n_classes:,}: "
                "name one for the same classes"
            )
        if other.fingerprint() == target.fingerprint():
            raise ValueError(f"the judge {judge} is the network in question: name another")
    case = Case(target=target, pair=pair, judge=other, fresh=opened.fresh, classes=chosen, seed=seed, least=least)
    notes = [*opened.notes, *(note for pictures in (pair.train, pair.heldout) if pictures for note in pictures.notes)]
    if folder is not None:
        pixels = [pictures.pixels for pictures in (pair.train, pair.heldout) if pictures is not None]
        of = [target.fingerprint(), other.fingerprint() if other else "", digest(*pixels), chosen, minutes, seed, least]
        folder = Path(folder) / config_hash(of)
    return Report(case=case, minutes=minutes, folder=folder, notes=tuple(notes))


def _placed(data: str) -> str:
    """A path of images, meant from the folder that the reader started from."""
    kind, colon, path = data.partition(":")
    if not colon or Path(path).expanduser().is_absolute():
        return data
    return f"{kind}:{start_folder() / Path(path).expanduser()}"


def _spread(count: int, most: int = 10) -> tuple[int, ...]:
    """At most ten classes, evenly spread."""
    return tuple(sorted({round(k * (count - 1) / max(1, min(most, count) - 1)) for k in range(min(most, count))}))
