"""The harness of recorded runs: options from the signature, rows over seeds, a record that tells how it was made."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest
import torch

from invkit.book.ledger.rules import load_rules
from invkit.book.record_file import sha256
from invkit.book.recorded import load_recorded
from invkit.book.recording import NETWORKS, Run, command_line, data_folder, published, recorded_run
from invkit.testing import tiny_target


@recorded_run(smoke={"steps": 1})
def sweep(run: Run, *, steps: int = 100, lr: float = 0.1, loss: str = "mse") -> None:
    """A sweep that measures its own options."""
    for seed in range(2):
        run.row(loss, {"steps": steps, "lr": lr * (1 + seed)})
    run.record("sweep", title="A sweep", config={"lr": lr}, seeds=2)


@recorded_run(data=True)
def real(run: Run, *, count: int = 1) -> None:
    """A run that needs the folder of data."""
    run.row(run.data.name, {"count": count})
    run.record("real", title="Real data", config={})


def test_options_come_from_the_signature(tmp_path, capsys):
    command_line(sweep, argv=["--steps", "7", "--loss", "l1", "--folder", str(tmp_path)])
    record = load_recorded("sweep", tmp_path)
    assert record.measured == {"l1": {"steps": [7.0, 7.0], "lr": [0.1, 0.2]}}
    assert record.command.endswith("test_recording.py --steps 7 --lr 0.1 --loss l1"), "it repeats all of them"
    assert record.seeds == [0, 1]
    assert record.device == "cpu"
    assert record.script_sha256 == sha256(Path(__file__).read_bytes())
    assert record.date
    assert record.seconds >= 0
    assert "l1: steps 7" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--steps", "few"], ["--lr", "x"], ["--depth", "3"], ["--steps"]])
def test_options_that_do_not_fit_are_refused(words, capsys):
    with pytest.raises(SystemExit) as error:
        command_line(sweep, argv=words)
    assert error.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_trial_is_small_and_leaves_no_record(monkeypatch, capsys, tmp_path):
    (tmp_path / "book/recorded").mkdir(parents=True)
    (tmp_path / "book/_toc.yml").touch()
    monkeypatch.chdir(tmp_path)
    command_line(sweep, argv=["--smoke"])
    assert "steps 1," in capsys.readouterr().out
    assert list((tmp_path / "book/recorded").iterdir()) == []
    command_line(sweep, argv=[])
    assert [path.name for path in (tmp_path / "book/recorded").iterdir()] == ["sweep.json"]


def test_a_trial_takes_what_is_asked_for(tmp_path):
    command_line(sweep, argv=["--smoke", "--steps", "3", "--folder", str(tmp_path)])
    assert load_recorded("sweep", tmp_path).means()["mse"]["steps"] == 3


def test_a_trial_replaces_no_record_of_another_run(tmp_path):
    words = ["--folder", str(tmp_path)]
    command_line(sweep, argv=words)
    before = (tmp_path / "sweep.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"trial .*'sweep'.*--folder"):
        command_line(sweep, argv=["--smoke", *words])
    assert (tmp_path / "sweep.json").read_bytes() == before
    command_line(sweep, argv=["--steps", "7", *words])
    assert load_recorded("sweep", tmp_path).means()["mse"]["steps"] == 7, "a run at full size does"


def test_a_trial_may_record_after_each_seed(tmp_path):
    @recorded_run()
    def growing(run: Run) -> None:
        """Its record grows."""
        for seed in range(2):
            run.row("ours", {"loss": seed})
            run.record("growing", title="It grows", config={}, seeds=seed + 1)

    command_line(growing, argv=["--smoke", "--folder", str(tmp_path)])
    assert load_recorded("growing", tmp_path).seeds == [0, 1]


def test_what_holds_one_number_for_all_seeds_is_said(tmp_path, capsys):
    run = Run(command="make run", script=Path(__file__), work=tmp_path, folder=tmp_path)
    for seed in range(2):
        run.row("ours", {"loss": seed})
    run.row("noise", {"loss": 9.0})
    capsys.readouterr()
    run.record("with-noise", title="Beside noise", config={}, seeds=2)
    assert capsys.readouterr().out == "one number for all seeds: noise\n"
    assert load_recorded("with-noise", tmp_path).single == ["noise"]
    del run.measured["noise"]
    run.record("alone", title="Alone", config={}, seeds=2)
    assert not capsys.readouterr().out


def test_the_command_repeats_the_run_in_a_shell(tmp_path):
    command_line(sweep, argv=["--loss", "l1 & tv", "--device", "meta", "--folder", str(tmp_path)])
    command = load_recorded("sweep", tmp_path).command
    assert shlex.split(command)[2:] == ["--steps", "100", "--lr", "0.1", "--loss", "l1 & tv", "--device", "meta"]


def test_of_several_runs_one_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("INVKIT_DATA", str(tmp_path))
    command_line(sweep, real, argv=["real", "--count", "2", "--folder", str(tmp_path)])
    assert load_recorded("real", tmp_path).command.startswith("INVKIT_DATA=FOLDER python book/recorded/")
    assert "test_recording.py real --count 2" in load_recorded("real", tmp_path).command
    with pytest.raises(SystemExit):
        command_line(sweep, real, argv=["neither"])
    assert "sweep" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, "nowhere/at/all"])
def test_without_data_it_says_what_to_set(value, monkeypatch, capsys):
    monkeypatch.delenv("INVKIT_DATA", raising=False)
    if value:
        monkeypatch.setenv("INVKIT_DATA", value)
    with pytest.raises(FileNotFoundError, match="INVKIT_DATA"):
        data_folder()
    with pytest.raises(SystemExit):
        command_line(real, argv=[])
    assert "INVKIT_DATA" in capsys.readouterr().err


def test_the_folder_of_work_outlives_the_run_where_it_is_named(tmp_path, monkeypatch):
    folders = []

    @recorded_run()
    def keep(run: Run) -> None:
        """Leaves a file."""
        (run.work / "kept").touch()
        folders.append(run.work)

    monkeypatch.setenv("INVKIT_WORK", str(tmp_path / "work"))
    command_line(keep, argv=[])
    monkeypatch.delenv("INVKIT_WORK")
    command_line(keep, argv=[])
    assert (folders[0] / "kept").exists()
    assert not folders[1].exists()


def test_a_run_without_plain_defaults_is_no_recorded_run():
    with pytest.raises(TypeError, match="sizes"):

        @recorded_run()
        def bad(run: Run, *, sizes: tuple[int, ...] = (1, 2)) -> None:
            """Its option could not be read from a command line."""

    with pytest.raises(TypeError, match="stepz"):

        @recorded_run(smoke={"stepz": 1})
        def misspelt(run: Run, *, steps: int = 1) -> None:
            """Its trial would be as long as the run."""


def test_time_of_earlier_runs_counts(tmp_path):
    run = Run(command="x", script=Path(__file__), work=tmp_path, earlier={"training": 1000.0})
    assert run.seconds >= 1000


def test_what_an_earlier_run_left_serves_again_and_its_time_counts(tmp_path):
    target, made = tiny_target(), []

    def images() -> torch.Tensor:
        made.append(True)
        time.sleep(0.05)
        return torch.full((2,), float(len(made)))

    for seed, kept in ((0, 1.0), (0, 1.0), (1, 2.0), (0, 1.0), (1, 2.0)):
        run = Run(command="x", script=Path(__file__), work=tmp_path)
        got = run.kept("images", {"network": target.fingerprint(), "seed": seed}, images)
        assert got.tolist() == [kept, kept]
        assert run.seconds >= 0.05
    assert len(made) == 2
    other_commit = Run(command="x", script=tmp_path / "outside_git.py", work=tmp_path)
    assert other_commit.kept("images", {"network": target.fingerprint(), "seed": 0}, images)[0] == 3


def test_a_number_that_is_none_is_refused(tmp_path):
    run = Run(command="x", script=Path(__file__), work=tmp_path)
    with pytest.raises(ValueError, match="ours: psnr"):
        run.row("ours", {"psnr": float("nan")})


def test_every_network_is_the_one_that_its_weights_were_made_for(data_folder):
    for name in NETWORKS:
        about = json.loads((data_folder / "weights" / f"{name}.json").read_text("utf8"))
        described = " " in about["network"]  # in words, where it is one of the package's own
        assert about["network"] == NETWORKS[name] or (described and NETWORKS[name].startswith("invkit/")), name
    target = published("cifar10_resnet20", folder=data_folder)
    assert target.spec.shape == (3, 32, 32)
    with pytest.raises(ValueError, match="'cifar100'"):
        published("cifar100", folder=data_folder)


def test_a_record_remembers_the_rules_as_the_run_began_and_its_networks(tmp_path):
    first, second, third = (tiny_target(seed=seed) for seed in range(3))
    run = Run(command="make run", script=Path(__file__), work=tmp_path, folder=tmp_path)
    digest = load_rules()["dci.deep"].digest()
    assert run.rules["dci.deep"] == digest
    run.rules["dci.plateau"] = "as it began"
    assert run.uses(first) is first
    run.uses(second)
    run.row("ours", {"psnr": 1.0})
    run.record("run-1", title="A run", config={}, claims=("dci.deep", "dci.plateau"), networks={"third": third})
    data = json.loads((tmp_path / "run-1.json").read_text("utf8"))
    assert data["rules"] == {"dci.deep": digest, "dci.plateau": "as it began"}
    assert data["networks"] == {
        "tiny": sorted([first.fingerprint(), second.fingerprint()]), "third": [third.fingerprint()],
    }  # fmt: skip
    run.record("run-2", title="A run", config={}, networks=[third])
    assert len(load_recorded("run-2", tmp_path).networks["tiny"]) == 3


@pytest.mark.parametrize(("claims", "message"), [(["dci.nonsense"], "dci.nonsense"), ("dci.deep", "sequence of ids")])
def test_claims_without_a_rule_are_refused_before_anything_is_written(tmp_path, claims, message):
    run = Run(command="make run", script=Path(__file__), work=tmp_path, folder=tmp_path)
    run.row("ours", {"psnr": 1.0})
    with pytest.raises(ValueError, match=message):
        run.record("run-1", title="A run", config={}, claims=claims)
    assert list(tmp_path.iterdir()) == []


def test_published_networks_are_remembered_by_their_names(tmp_path, monkeypatch):
    target = tiny_target()
    monkeypatch.setattr("invkit.book.recording.published", lambda name, device: target)
    run = Run(command="make run", script=Path(__file__), work=tmp_path)
    assert run.network("cifar10_resnet20") is target
    assert run.networks == {"cifar10_resnet20": {target.fingerprint()}}


def test_a_network_without_a_name_is_refused(tmp_path):
    run = Run(command="make run", script=Path(__file__), work=tmp_path)
    target = tiny_target()
    target.name = ""
    with pytest.raises(ValueError, match="no name"):
        run.uses(target)
    assert run.uses(target, "tiny net") is target
