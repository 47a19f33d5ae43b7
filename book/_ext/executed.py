"""Sphinx extension: build each notebook page from its executed copy.

Document names, addresses, launch and edit links stay those of the clean sources in ``notebooks/``; only the
text that MyST-NB reads is replaced, in Sphinx's ``source-read`` event. Prose, tags and metadata come from the
source and only outputs from the run, so editing text needs no new run.

Warnings (errors under ``-W``): a run is missing, failed, of other code, another package state or another
profile, it lacks a recorded run, it shows a widget that would be blank without a kernel, or its numbers refute a
sentence of the page.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from myst_nb.ext.glue.utils import PendingGlueReference
from sphinx.util import logging

from invkit.book.runner import key_of
from invkit.book.statements import MIME as STATEMENTS

log = logging.getLogger(__name__)
VIEW = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"^\s*(.*:\s*)?(\d+%\||\d+it \[)")
NOTE = (
    '<p class="live-only">This control needs a running kernel: '
    "start one with the launch button at the top of the page.</p>"
)


def run_of(app, docname: str) -> Path | None:
    """The executed copy that belongs to a page; None for pages that are no notebooks."""
    source = Path(app.env.doc2path(docname))
    if source.suffix != ".ipynb":
        return None
    return Path(app.srcdir, app.config.executed_dir, app.config.executed_profile, source.name)


def text(part: dict, field: str = "source") -> str:
    """A notebook's text, which the format keeps as a string or as a list of lines."""
    return "".join(part.get(field, ""))


def tags(cell: dict) -> list[str]:
    """Tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def graft(source: dict, run: dict, warn) -> dict:
    """The source's prose, tags and metadata with the run's outputs."""
    ran = [c for c in run["cells"] if c["cell_type"] == "code" and "injected-parameters" not in tags(c)]
    code = [c for c in source["cells"] if c["cell_type"] == "code"]
    if [text(c) for c in code] != [text(c) for c in ran]:
        warn("stale", "the code has changed since the notebook was run; run `make execute`")
    for mine, theirs in zip(code, ran, strict=False):
        mine["outputs"], mine["execution_count"] = theirs["outputs"], theirs["execution_count"]
    show_parameters(source, run)
    return source


def show_parameters(source: dict, run: dict) -> None:
    """Insert the cell of injected values where it says something that the defaults do not.

    A page must never claim the defaults of a run that had others.
    """
    cells = [c for c in run["cells"] if "injected-parameters" in tags(c)]
    at = next((i for i, c in enumerate(source["cells"]) if "parameters" in tags(c)), -1)
    default = re.search(r'^profile\b[^=]*=\s*"(\w+)"', text(source["cells"][at]), re.M) if at >= 0 else None
    parameters = run["metadata"].get("book", {}).get("parameters", {})
    if default and parameters == {"profile": default[1]}:
        return
    source["cells"][at + 1 : at + 1] = cells


def without_kernel(notebook: dict, warn) -> dict:
    """Keep the kernel-free rendering of every output; drop widget views and their saved state."""
    for number, cell in enumerate(notebook["cells"]):
        outputs = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VIEW in data:
                if PROGRESS.match(text(data, "text/plain")):
                    continue
                del data[VIEW]
                if "live-only" in tags(cell):
                    data["text/html"] = NOTE
                elif "text/html" not in data and not any(kind.startswith("image/") for kind in data):
                    warn("widget", f"cell {number} shows a widget with no kernel-free rendering")
            outputs.append(output)
        if "outputs" in cell:
            cell["outputs"] = outputs
    notebook["metadata"].pop("widgets", None)
    return notebook


def refuted(notebook: dict, profile: str, warn) -> dict:
    """Warn of each sentence that the run refutes, by its cell; a run of profile ``ci`` is too short to bear any out."""
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            for statement in output.get("data", {}).pop(STATEMENTS, []):
                if not statement["holds"] and profile != "ci":
                    where = f"cell {number} ({cell.get('id', 'no id')})"
                    warn("refuted", f"{where}: the run refutes the sentence {statement['sentence']!r}")
    return notebook


def swap(app, docname: str, content: list[str]) -> None:
    """Hand MyST-NB the source with the run's outputs."""
    path = run_of(app, docname)
    if path is None:
        return

    def warn(kind: str, message: str) -> None:
        log.warning(message, location=docname, type="executed", subtype=kind)

    app.env.note_dependency(str(path))
    profile = app.config.executed_profile
    if not path.exists():
        return warn("missing", f"not run with profile {profile!r}; run `make execute PROFILE={profile}`")
    run = json.loads(path.read_text("utf8"))
    check(run["metadata"], Path(app.srcdir), Path(app.env.doc2path(docname)), profile, warn)
    notebook = refuted(graft(json.loads(content[0]), run, warn), profile, warn)
    content[0] = json.dumps(without_kernel(notebook, warn))


def check(metadata: dict, root: Path, source: Path, profile: str, warn) -> None:
    """Warn where a run failed, is of another profile, or of another state of the package."""
    about = metadata.get("book", {})
    if metadata.get("papermill", {}).get("exception") or not about:
        warn("failed", "the run did not finish, or was not made by `python -m invkit.run`")
    elif about["profile"] != profile:
        warn("profile", f"run with profile {about['profile']!r}, not {profile!r}")
    elif about["key"] != key_of(root, source, about["parameters"]):
        warn("stale", "code, parameters or the package have changed since the run; run `make execute`")
    for name, problem in about.get("missing", {}).items():
        warn("record", f"the recorded run {name} is missing ({problem}), and with it what the page says of it")


def remember_glue(app, doctree) -> None:
    """Note which notebooks a page quotes numbers from."""
    users = app.env.__dict__.setdefault("executed_glue_users", {})
    users[app.env.docname] = {node.refdoc for node in doctree.findall(PendingGlueReference)}


def outdated(app, env, added, changed, removed) -> list[str]:
    """Notebook pages are always read again (a change in the package shows only so), and who quotes them."""
    notebooks = {name for name in env.found_docs if env.doc2path(name).endswith(".ipynb")}
    users = getattr(env, "executed_glue_users", {})
    quoting = {name for name, sources in users.items() if sources & (notebooks | added | changed)}
    return sorted((notebooks | quoting) & set(env.found_docs))


def setup(app) -> dict:
    """Register with Sphinx."""
    app.add_config_value("executed_dir", "build/executed", "env", types=[str])
    app.add_config_value("executed_profile", os.environ.get("BOOK_PROFILE", "book"), "env", types=[str])
    app.connect("source-read", swap)
    app.connect("doctree-read", remember_glue)
    app.connect("env-get-outdated", outdated)
    return {"version": "1", "env_version": 1, "parallel_read_safe": False, "parallel_write_safe": True}
