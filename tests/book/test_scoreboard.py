"""The scoreboard page, built by Sphinx in a small book of two pages."""

import io
import json
import sys
from pathlib import Path

import nbformat
import pytest

from invkit.book.claims import Claims, load_claims

pytest.importorskip("myst_nb")
ROOT = Path(__file__).resolve().parents[2]
CONF = """
import sys
sys.path.insert(0, {ext!r})
extensions = ["myst_nb", "scoreboard"]
nb_execution_mode = "off"
include_patterns = ["*.md", "notebooks/*.ipynb"]
def setup(app):
    app.add_config_value("executed_dir", "build/executed", "env", str)
    app.add_config_value("executed_profile", "ci", "env", str)
"""
INDEX = """# Book

```{scoreboard}
```

```{scoreboard} botach2021journey
```

```{toctree}
notebooks/01_deepinversion
```
"""
NAME = "01_deepinversion"


def answers(holds: bool = True) -> Claims:
    claims = Claims(NAME, profile="ci")
    for id in claims.owned:
        claims.add(id, measured=[0.5, 0.7], holds=holds)
    claims.add("di.amp", holds=None, reason="Needs a GPU")
    return claims


def publish(book: Path, shown: Claims, saved: Claims | None) -> None:
    """The chapter's page and run show one set of answers, its file holds another."""
    output = nbformat.v4.new_output("display_data", {"text/html": shown.table()._repr_html_()})
    cells = [
        nbformat.v4.new_markdown_cell("# Chapter"),
        nbformat.v4.new_code_cell("claims", outputs=[output]),
    ]
    for folder in (book / "notebooks", book / "build/executed/ci"):
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{NAME}.ipynb")
    file = book / f"build/claims/ci/{NAME}.json"
    file.unlink(missing_ok=True)
    if saved:
        saved.save(file.parent)


@pytest.fixture
def book(tmp_path):
    (tmp_path / "conf.py").write_text(CONF.format(ext=str(ROOT / "book/_ext")))
    (tmp_path / "index.md").write_text(INDEX)
    return tmp_path


@pytest.fixture
def build(book, monkeypatch):
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    def run() -> tuple[str, str]:
        """The index page and the warnings of the scoreboard."""
        warnings, out = io.StringIO(), book / "out"
        with docutils_namespace(), patch_docutils(book):
            app = Sphinx(book, book, out, book / "doctrees", "html", status=None, warning=warnings)
            app.build()
        told = [line for line in warnings.getvalue().splitlines() if ".json " in line or "scoreboard" in line]
        return (out / "index.html").read_text("utf8"), "\n".join(told)

    yield run
    sys.modules.pop("scoreboard", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(ROOT / "book/_ext")]


def test_answers_are_counted_linked_and_read_again_when_they_change(book, build):
    publish(book, answers(), answers())
    page, warnings = build()
    assert warnings == ""
    assert "Of 68 claims, 12 hold, 0 do not hold, 1 is out of reach, 55 wait for a chapter in preparation." in page
    assert 'href="notebooks/01_deepinversion.html#claim-di-verifier"' in page
    assert 'id="claim-di-verifier"' in (book / "out/notebooks/01_deepinversion.html").read_text("utf8")
    assert "0.6 ± 0.14 (2 seeds)" in page
    assert "Needs a GPU" in page
    assert page.count("Chapter 02 in preparation") == 4

    publish(book, answers(False), answers(False))
    page, warnings = build()
    assert warnings == ""
    assert "0 hold, 12 do not hold" in page

    (book / f"build/claims/ci/{NAME}.json").unlink()  # nothing else changes
    assert "is missing" in build()[1]


def test_a_chapter_without_answers_is_a_warning(book, build):
    publish(book, answers(), None)
    page, warnings = build()
    assert "01_deepinversion.json is missing" in warnings
    assert warnings.count("is missing") == 1
    assert "68 wait for a chapter" in page


def test_answers_of_another_run_are_stale(book, build):
    publish(book, shown=answers(), saved=answers(False))
    assert "not those in the table on the chapter's page" in build()[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["claims"].pop(), "holds no answer to di.adaptive"),
        (lambda data: data["claims"][0].update(verdict="does not hold"), "changed by hand"),
        (lambda data: data.pop("digest"), "is damaged"),
        (lambda data: data["claims"][0].update(id="dci.deep"), "dci.deep are no claims of this chapter"),
    ],
)
def test_files_that_do_not_fit_are_warnings(book, change, message, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import scoreboard

    publish(book, answers(), answers())
    file = book / f"build/claims/ci/{NAME}.json"
    data = json.loads(file.read_text("utf8"))
    change(data)
    file.write_text(json.dumps(data))
    told: list[str] = []
    scoreboard.load(file, book / f"build/executed/ci/{NAME}.ipynb", load_claims(), told.append)
    assert any(message in line for line in told), told


def test_every_claim_is_on_the_page():
    page = (ROOT / "book/scoreboard.md").read_text("utf8")
    assert all(f"{{scoreboard}} {claim.paper}\n" in page for claim in load_claims().values())
