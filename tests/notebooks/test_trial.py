"""A chapter in profile `paper`, from the first cell to the last, with loops cut short."""

from __future__ import annotations

import json
from pathlib import Path

from invkit.book import runner

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "06_network_inversion"


def test_a_chapter_runs_in_profile_paper_to_its_last_cell(tmp_path):
    kept = ROOT / "build/claims/paper" / f"{CHAPTER}.json"
    before = kept.read_bytes() if kept.exists() else None
    assert runner.main([CHAPTER, "--profile", "paper", "--trial", "-j", "1", "--out", str(tmp_path)]) == 0
    run = json.loads((tmp_path / f"{CHAPTER}.ipynb").read_text("utf8"))
    assert run["metadata"]["book"]["parameters"] == {"profile": "paper"}
    code = [cell for cell in run["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    answers = json.loads((tmp_path / f"{CHAPTER}.json").read_text("utf8"))
    assert answers["profile"] == "paper"
    assert (kept.read_bytes() if kept.exists() else None) == before, "a trial answers for nobody but itself"


def test_a_trial_that_fails_says_so(tmp_path, monkeypatch, capsys):
    asked = []

    def worker(job, root, timeout, threads, more):
        asked.append((job, dict(more)))
        return job, 0.0, "cell In [1]: it broke" if "06" in job.notebook.name else ""

    monkeypatch.setattr(runner, "start_worker", worker)
    chapters = [CHAPTER, "10_your_network"]
    assert runner.main([*chapters, "--profile", "paper", "--trial", "--out", str(tmp_path)]) == 1
    assert "1 of 2 trials failed" in capsys.readouterr().err
    for job, more in asked:
        assert more["INVKIT_TRIAL"] == "5"
        assert (job.key, job.failed.parent) == ("trial", tmp_path / "failed"), "it replaces no run"
        assert Path(more["INVKIT_CLAIMS"]) == job.target.parent == job.claims.parent == tmp_path
        assert not Path(more["INVKIT_CACHE"]).exists(), "its networks are gone"


def test_a_sweep_of_trials_is_refused(capsys):
    assert runner.main([CHAPTER, "--trial", "--sweep", "seed=0:2"]) == 2
    assert "--trial has no place in a sweep" in capsys.readouterr().err


def test_a_run_takes_all_its_steps_whatever_the_shell_says(monkeypatch):
    monkeypatch.setenv("INVKIT_TRIAL", "2")
    asked = []

    def worker(call, *, env, **_):
        asked.append(env)
        return runner.subprocess.CompletedProcess(call, 0, stdout='""', stderr="")

    monkeypatch.setattr(runner.subprocess, "run", worker)
    (job,) = runner.plan(ROOT, runner.arguments().parse_args([CHAPTER, "--profile", "ci"]))
    runner.start_worker(job, ROOT, 10, 1, {})
    runner.start_worker(job, ROOT, 10, 1, {"INVKIT_TRIAL": "5"})
    assert [env.get("INVKIT_TRIAL") for env in asked] == [None, "5"]
