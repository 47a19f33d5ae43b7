"""How scripts make recorded runs: options, published networks, rows that are printed as they come, and the record.

A script holds one function for each of its runs, and ends with :func:`command_line`:

.. code-block:: python

    @recorded_run(data=True, smoke={"steps": 2})
    def images(run: Run, *, steps: int = 600) -> None:
        \"\"\"What the help says of it.\"\"\"
        target = run.network("cifar10_resnet20")
        ...
        run.row("ours", {"psnr": psnr})
        run.record("my_run", title="What was done", config=config)

    if __name__ == "__main__":
        command_line(images)
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from invkit.book.ledger.rules import load_rules
from invkit.book.numbers import finite, format_summary, is_summary, summarise
from invkit.book.published import NETWORKS as NETWORKS
from invkit.book.published import data_folder as data_folder
from invkit.book.published import published as published
from invkit.book.published import zipped_images as zipped_images
from invkit.book.record_file import commit_of, record
from invkit.core.config import config_hash
from invkit.core.files import load_state, save_state
from invkit.core.rng import seeded
from invkit.core.target import FrozenNetwork, Target
from invkit.data.datasets import load_data
from invkit.engine.synthesis import synthesise
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.show.picture import Canvas

N = TypeVar("N", bound=FrozenNetwork)


@dataclass(kw_only=True)
class Run:
    """A run under way: what it may use, and what it has measured so far.

    Attributes:
        command: What a reader types to repeat it.
        script: The file that it is defined in.
        device: Where networks run.
        work: A folder for what takes long and may serve again.
        folder: Where records are written; None for ``book/recorded``.
        quick: Whether this is a trial at tiny size, which may not replace a record.
        measured: By row and column, one number for each seed.
        earlier: Seconds that an earlier run spent on what this one reads.
        written: Names of the records that it wrote.
        rules: By claim, the digest of its rule when the run began.
        networks: Fingerprints of the networks used so far, by name.
    """

    command: str
    script: Path
    work: Path
    device: str = "cpu"
    folder: Path | None = None
    quick: bool = False
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    earlier: dict[str, float] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    start: float = field(default_factory=time.perf_counter)
    rules: dict[str, str] = field(default_factory=lambda: {id: rule.digest() for id, rule in load_rules().items()})
    networks: dict[str, set[str]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The folder of real data and weights."""
        return data_folder()

    @property
    def seconds(self) -> float:
        """Wall time so far, with that of earlier runs which this one builds upon."""
        return time.perf_counter() - self.start + sum(self.earlier.values())

    @property
    def trial(self) -> dict[str, int]:
        """What a quick run changes in the config of any training: it takes one step."""
        return {"steps": 1, "warmup": 0} if self.quick else {}

    def network(self, name: str) -> Target:
        """One of :data:`NETWORKS` with its published weights."""
        return self.uses(published(name, device=self.device), name)

    def uses(self, network: N, name: str = "") -> N:
        """Note that the run uses a network, so that the record tells it from others of its name.

        Args:
            network: Frozen, with its final weights.
            name: By default the network's own; networks of several seeds may share one.

        Returns:
            The network itself.

        Raises:
            ValueError: If neither it nor the caller has a name for it.

        >>> from invkit.testing import tiny_target
        >>> run = Run(command="make run", script=Path("run.py"), work=Path("."))
        >>> target = run.uses(tiny_target())
        >>> list(run.networks)
        ['tiny']
        """
        name = name or network.name
        if not name:
            raise ValueError("uses: the network has no name of its own; give it one")
        self.networks.setdefault(name, set()).add(network.fingerprint())
        return network

    def synthetic(
        self, target: Target, count: int, config: DeepInversionConfig, *,
        folder: str = "synthetic", batch_size: int = 128, seed: int = 0, student: Target | None = None,
    ) -> Tensor:  # fmt: skip
        """Images that DeepInversion makes of all classes in turn; those of an earlier run in :attr:`work` serve again.

        Args:
            target: The network that they are drawn from.
            count: How many.
            config: How.
            folder: Where they lie within :attr:`work`.
            batch_size: Of those whose statistics are compared with the network's together.
            seed: Of the noise.
            student: The network that competes, where ``config.competition`` asks for one.

        Returns:
            ``(count, C, H, W)`` in [0, 1], in mixed order.

        Raises:
            ValueError: Where the folder holds another synthesis.
        """
        manifest = self.work / folder / "manifest.json"
        if manifest.exists():
            self.earlier[folder] = float(json.loads(manifest.read_text("utf8"))["seconds"])
        path = synthesise(
            target, count, self.work / folder, batch_size=batch_size, config=config, seed=seed,
            invert=lambda y, generator: deep_inversion(target, y, config, generator=generator, student=student),
        )  # fmt: skip
        data = load_data(f"folder:{path}")
        made = torch.cat([part.images for part in (data.train, data.test, data.heldout)])
        return made[torch.randperm(len(made), generator=seeded(seed))]

    def kept(self, name: str, settings: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
        """A tensor that takes long: where an earlier run stopped, what it left in :attr:`work` serves again.

        What the earlier run spent on it counts as this one's time.

        Args:
            name: Of the file.
            settings: Plain values that decide it besides the commit; with others it is made anew.
            make: Makes it.

        Returns:
            What ``make`` returned, now or then.

        >>> run = Run(command="make run", script=Path("run.py"), work=Path(tempfile.mkdtemp()))
        >>> run.kept("images", {"seed": 0}, lambda: torch.zeros(2))
        tensor([0., 0.])
        >>> run.kept("images", {"seed": 0}, lambda: torch.ones(2))
        tensor([0., 0.])
        >>> run.kept("images", {"seed": 1}, lambda: torch.ones(2))
        tensor([1., 1.])
        """
        path = self.work / f"{name}-{config_hash([commit_of(self.script.parent), settings])}.pt"
        if path.exists():
            state = load_state(path)
            self.earlier[path.name] = state["seconds"]
            return cast(Tensor, state["made"])
        start = time.perf_counter()
        made = make()
        save_state(path, {"made": made, "seconds": time.perf_counter() - start})
        return made

    def row(self, name: str, columns: Mapping[str, Any]) -> None:
        """Add numbers to a row of the table, and print it.

        Args:
            name: Name of the row; numbers of a row that is there already are those of further seeds.
            columns: By column a number, one for each seed, or a summary of many.
        """
        row = self.measured.setdefault(name, {})
        for column, value in columns.items():
            if is_summary(value):
                row[column] = value
            else:
                row.setdefault(column, []).extend(finite(value, f"{name}: {column}"))
        texts = [f"{column} {format_summary(summarise(row[column]))}" for column in columns]
        print(f"{self.seconds:8.0f} s  {name}: {', '.join(texts)}", flush=True)

    def mean(self, row: str, column: str) -> float:
        """Mean over seeds of a number that was measured."""
        return summarise(self.measured[row][column])["mean"]

    def record(
        self,
        name: str,
        *,
        title: str,
        config: Any,
        seeds: int | Sequence[int] = 1,
        note: str = "",
        figure: Canvas | None = None,
        measured: Mapping[str, Mapping[str, Any]] | None = None,
        photographs: bool = False,
        claims: Sequence[str] = (),
        networks: Mapping[str, FrozenNetwork] | Sequence[FrozenNetwork] = (),
    ) -> Path:
        """Write the record of this run, see :func:`~invkit.book.record_file.record`.

        It replaces an earlier one, but a trial replaces only its own. What it names as holding a single number for all
        seeds is printed: a seed that a row lacks would be among it.

        Args:
            name: Name of the record.
            title: What was done.
            config: The settings.
            seeds: The seeds, or how many from 0 on.
            note: What a reader must know of the numbers.
            figure: What is shown.
            measured: The numbers; by default all rows.
            photographs: Whether the figure is stored with a little loss, for what would be too large.
            claims: Ids of the claims that the numbers test; the record remembers their rules as the run began.
            networks: Networks used besides those of :meth:`network` and :meth:`uses`, by name or with their own names.

        Returns:
            Path of the JSON file.

        Raises:
            FileExistsError: If this is a trial and another run's record is there.
            ValueError: For a claim that has no rule.
        """
        if isinstance(claims, str):
            raise ValueError(f"{name}: claims must be a sequence of ids, not the word {claims!r}")
        for label, network in networks.items() if isinstance(networks, Mapping) else (("", n) for n in networks):
            self.uses(network, label)
        own = name in self.written
        if self.quick and not own and self.folder is not None and (self.folder / f"{name}.json").exists():
            raise FileExistsError(
                f"a trial must not replace the record {name!r} that is in {self.folder}: give another --folder, or none"
            )
        path = record(
            name,
            title=title,
            config=config,
            measured=self.measured if measured is None else measured,
            command=self.command,
            seeds=range(seeds) if isinstance(seeds, int) else seeds,
            seconds=self.seconds,
            device=self.device,
            script=self.script,
            note=note,
            figure=figure,
            folder=self.folder,
            overwrite=own or not self.quick,
            photographs=photographs,
            claims={id: self.rules.get(id, "") for id in claims},
            networks={label: sorted(prints) for label, prints in self.networks.items()},
        )
        self.written.add(name)
        if single := json.loads(path.read_text("utf8"))["single"]:
            print(f"one number for all seeds: {'; '.join(single)}", flush=True)
        return path


class RecordedRun:
    """A function that makes a recorded run, with options of the command line for its keyword arguments."""

    def __init__(self, function: Callable[..., None], data: bool, smoke: Mapping[str, Any]) -> None:
        self.function, self.data, self.smoke = function, data, dict(smoke)
        self.name = function.__name__
        self.script = Path(inspect.getfile(function)).resolve()
        parameters = list(inspect.signature(function).parameters.values())[1:]
        self.defaults: dict[str, Any] = {parameter.name: parameter.default for parameter in parameters}
        untyped = [name for name, value in self.defaults.items() if type(value) not in (int, float, str)]
        if untyped:
            raise TypeError(f"{self.name}: {', '.join(untyped)} must default to a whole number, a number or a word")
        if unknown := sorted(set(self.smoke) - set(self.defaults)):
            raise TypeError(f"{self.name}: smoke names no option: {', '.join(unknown)}")

    def __call__(self, run: Run, **options: Any) -> None:
        """Make the run with these options."""
        self.function(run, **options)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add an option of the same type for each keyword argument."""
        for name, default in self.defaults.items():
            parser.add_argument(_flag(name), type=type(default), help=f"default: {default}")
        parser.add_argument("--device", default="cpu", help="where networks run (default: cpu)")
        parser.add_argument("--folder", type=Path, help="where to write the record (default: book/recorded)")
        parser.add_argument("--smoke", action="store_true", help="a trial at tiny size, whose record is thrown away")

    def command(self, options: Mapping[str, Any], part: str = "", device: str = "cpu") -> str:
        """What a reader types into a shell to repeat a run with these options, on ``device``."""
        words = ["INVKIT_DATA=FOLDER"] if self.data else []
        words += ["python", f"book/recorded/{self.script.name}", *filter(None, [part])]
        for name, value in options.items():
            words += [_flag(name), shlex.quote(str(value))]
        if device != "cpu":
            words += ["--device", shlex.quote(device)]
        return " ".join(words)

    def start(self, given: argparse.Namespace, part: str = "") -> None:
        """Make the run that was asked for on the command line."""
        sizes = self.defaults | (self.smoke if given.smoke else {})
        options = {name: sizes[name] if getattr(given, name) is None else getattr(given, name) for name in sizes}
        with contextlib.ExitStack() as stack:
            folder = given.folder
            if given.smoke and folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            run = Run(
                command=self.command(options, part, given.device),
                script=self.script,
                device=given.device,
                work=stack.enter_context(_work_folder(temporary=given.smoke)),
                folder=folder,
                quick=given.smoke,
            )
            self(run, **options)


def recorded_run(
    *, data: bool = False, smoke: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], RecordedRun]:
    """Make a :class:`RecordedRun` of a function ``(run, *, option=default, ...)``.

    Args:
        data: Whether it needs the folder of real data and weights.
        smoke: Options of a trial that takes seconds.

    Returns:
        A decorator.

    Raises:
        TypeError: For an option without a default that is a number or a word, or a smoke option that is none.

    >>> @recorded_run(smoke={"steps": 1})
    ... def sweep(run: Run, *, steps: int = 100) -> None:
    ...     run.row("ours", {"loss": 1 / steps})
    >>> sweep.command({"steps": 5})
    'python book/recorded/... --steps 5'
    """
    return lambda function: RecordedRun(function, data, smoke or {})


def command_line(*runs: RecordedRun, argv: Sequence[str] | None = None) -> None:
    """Read the command line of a script, and make the run that it names; a script of one run has no names.

    Args:
        runs: The script's runs.
        argv: Words of the command line; by default those of the process.

    Raises:
        SystemExit: With status 2, for options that do not fit, or where there is no folder of data.
    """
    script = sys.modules.get(runs[0].function.__module__)
    parser = argparse.ArgumentParser(
        prog=runs[0].script.name, description=script.__doc__ if script else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    if len(runs) == 1:
        runs[0].add_options(parser)
    else:
        parts = parser.add_subparsers(dest="part", required=True)
        for run in runs:
            run.add_options(parts.add_parser(run.name, help=inspect.getdoc(run.function)))
    given = parser.parse_args(argv)
    part = getattr(given, "part", "")
    chosen = next(run for run in runs if run.name == part or not part)
    if chosen.data:
        try:
            data_folder()
        except FileNotFoundError as error:
            parser.error(str(error))
    chosen.start(given, part)


@contextlib.contextmanager
def _work_folder(temporary: bool) -> Iterator[Path]:
    """The folder that ``INVKIT_WORK`` names, which outlives the run; else one that does not."""
    named = os.environ.get("INVKIT_WORK")
    if named and not temporary:
        Path(named).mkdir(parents=True, exist_ok=True)
        yield Path(named)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _flag(name: str) -> str:
    """Option of the command line for a keyword argument: ``--fine-tune-steps``."""
    return "--" + name.replace("_", "-")
