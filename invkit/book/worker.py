"""Run one notebook by papermill and publish it only when it is whole; started by `invkit.book.runner`, by path.

It imports nothing of the package, so that no worker pays for importing torch beside the kernel that does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PACKAGES = ("invkit", "torch", "torchvision", "timm", "torchmetrics", "numpy", "papermill")


def provenance(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a published run says about itself."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    claims = Path(job["claims"])
    return {
        "key": job["key"],
        "claims": hashlib.sha256(claims.read_bytes()).hexdigest()[:16] if claims.is_file() else "",
        "profile": job["parameters"]["profile"],
        "parameters": job["parameters"],
        "versions": versions,
        "commit": commit_of(Path(job["notebook"]).parent),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(seconds, 1),
    } | ({"missing": job["missing"]} if job.get("missing") else {})


def rewrite(job: dict[str, Any], folder: Path) -> str:
    """The notebook to run: a copy without what needs recorded runs that are missing, or the notebook itself."""
    if not job.get("sources"):
        return str(job["notebook"])
    notebook = json.loads(Path(job["notebook"]).read_text("utf8"))
    for number, source in job["sources"].items():
        notebook["cells"][int(number)]["source"] = source
    copy = folder / Path(job["notebook"]).name
    copy.write_text(json.dumps(notebook), "utf8")
    return str(copy)


def restore(job: dict[str, Any], run: dict[str, Any]) -> None:
    """Put the notebook's own code back beside the outputs, for a page shows what stands in the notebook."""
    cells = [cell for cell in run["cells"] if "injected-parameters" not in cell["metadata"].get("tags", [])]
    own = json.loads(Path(job["notebook"]).read_text("utf8"))["cells"]
    for number in map(int, job.get("sources", {})):
        cells[number]["source"] = own[number]["source"]
    run["metadata"]["papermill"]["input_path"] = str(job["notebook"])


def commit_of(folder: Path) -> str:
    """Short id of the commit that stands in a folder, with a plus where files differ from it."""
    try:
        call = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def execute(job: dict[str, Any], sockets: Path) -> None:
    """Run one notebook beside its target, then move it there: a half-run file is never published."""
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class Private(AsyncKernelManager):
        """Unix sockets in a folder of one's own: no race for ports between kernels that start together."""

        # This interpreter, whatever else a user has registered under the name of python3.
        kernel_spec = KernelSpec(**get_kernel_dict())

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            if os.name != "nt":
                self.transport = "ipc"
                self.connection_file = str(sockets / "k.json")

    target, failed = Path(job["target"]), Path(job["failed"])
    part = target.with_name(f".{target.stem}.{os.getpid()}.ipynb")
    part.parent.mkdir(parents=True, exist_ok=True)
    start = time.time()
    try:
        papermill.execute_notebook(
            rewrite(job, sockets), str(part), parameters=job["parameters"], kernel_name="python3",
            cwd=str(Path(job["notebook"]).parent), progress_bar=False, log_output=False,
            execution_timeout=job["timeout"], autosave_cell_every=0, kernel_manager_class=Private,
        )  # fmt: skip
        run = json.loads(part.read_text("utf8"))
        restore(job, run)
        run["metadata"]["book"] = provenance(job, time.time() - start)
        part.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", "utf8")
        os.replace(part, target)
        failed.unlink(missing_ok=True)
    finally:
        if part.exists():
            failed.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(part, failed)


def explain(error: Exception, failed: Path) -> str:
    """A failed run in words: notebook, cell, traceback, and where the half-run copy lies."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    where = ""
    if hasattr(error, "exec_count"):
        text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))  # type: ignore[attr-defined]
        where = f", cell In [{error.exec_count}]"  # as the half-run copy shows it
    return f"{failed.name}{where}: {type(error).__name__}\n{text}\nThe half-run copy is {failed}"


def work() -> int:
    """One job as JSON on standard input; the error (empty where there is none) as JSON on standard output."""
    job = json.load(sys.stdin)
    sockets = Path(tempfile.mkdtemp(prefix="nbk"))  # short: a socket's path has about a hundred characters
    error = ""
    try:
        execute(job, sockets)
    except Exception as exc:
        error = explain(exc, Path(job["failed"]))
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    print(json.dumps(error))
    return 0


if __name__ == "__main__":
    sys.exit(work())
