"""The scoreboard page, built by Sphinx in a small book of two pages."""

import io
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from invkit.book.ledger import verdicts
from invkit.book.ledger.claims import Claims, load_claims
from invkit.book.ledger.rules import load_rules
from invkit.book.ledger.verdicts import SCALE, VERDICTS, mark
from invkit.book.record_file import record

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

```{scoreboard} changes
```

```{scoreboard} matrix
```

```{toctree}
notebooks/01_deepinversion
```
"""
NAME = "01_deepinversion"


SURE, NONE, WIDE = [0.9, 0.95, 0.92], [-0.3, -0.2, -0.25], [-0.9, 0.0, 0.9]
REAL = {"data": "CIFAR-10", "network": "ResNet-20", "finding": "Most of them are."}
DIGITS = {"data": "digits", "network": "BN-CNN", "finding": "Few of the scans are."}


def answers(effect: list[float] = SURE) -> Claims:
    """Claims without numbers, a test that tells nothing, two of ``effect``, one of both grades, one not tested."""
    claims = Claims(NAME, profile="ci")
    for id in claims.owned:
        claims.untested(id, "Not measured here.")
    claims.test("di.adaptive", WIDE, **REAL)
    claims.test("di.clipping", effect, **REAL)
    claims.test("di.feature-term", effect, **REAL)
    claims.test("di.verifier", SURE, **DIGITS)
    claims.test("di.verifier", effect, **REAL)
    claims.test("di.batch-size", SURE, **DIGITS)
    claims.untested("di.amp", "Needs a GPU")
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
        told = [
            line
            for line in warnings.getvalue().splitlines()
            if ".json " in line or "scoreboard" in line or "recorded run" in line
        ]
        return (out / "index.html").read_text("utf8"), "\n".join(told)

    yield run
    sys.modules.pop("scoreboard", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(ROOT / "book/_ext")]


def test_answers_are_counted_linked_and_read_again_when_they_change(book, build):
    publish(book, answers(), answers())
    page, warnings = build()
    assert warnings == ""
    assert (
        "Of 68 claims, 3 hold, 1 holds in part, 1 is not seen at this scale, 8 are not tested, "
        "55 wait for a chapter in preparation." in page
    )
    assert 'href="notebooks/01_deepinversion.html#claim-di-verifier"' in page
    assert 'id="claim-di-verifier"' in (book / "out/notebooks/01_deepinversion.html").read_text("utf8")
    assert "Not measured here." in page
    assert "Needs a GPU" in page
    assert page.count("Chapter 02 in preparation") == 4

    publish(book, answers(NONE), answers(NONE))
    page, warnings = build()
    assert warnings == ""
    assert "Of 68 claims, 1 holds in part, 3 are contradicted" in page

    (book / f"build/claims/ci/{NAME}.json").unlink()  # nothing else changes
    assert "is missing" in build()[1]


def cells(page: str, id: str, table: int) -> list[list[str]]:
    """Words of the cells of a claim's rows in one of the page's tables."""
    body = re.findall(r"<table.*?</table>", page, re.S)[table]
    rows = re.findall(r"<tr.*?</tr>", body, re.S)
    start = next(i for i, row in enumerate(rows) if f'claim-{id.replace(".", "-")}"' in row)
    spans = int((re.search(r'rowspan="(\d+)"', rows[start]) or [0, 1])[1])
    return [
        [" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", row, re.S)]
        for row in rows[start : start + spans]
    ]


def test_each_data_set_has_its_line_with_interval_and_threshold(book, build):
    publish(book, answers(NONE), answers(NONE))
    (claim, on, finding, effect), second = cells(build()[0], "di.verifier", 0)
    assert "another network recognises the images Overall: ✗ contradicted Reported: ResNet-152: 97.02" in claim
    assert "Effect: share recognised by a network of another architecture" in claim
    assert (on, finding) == ("digits, BN-CNN, 3 seeds", "Few of the scans are.")
    assert effect == "0.923 [0.861, 0.986] against 0.5 ✓ holds"
    # Mean -0.25, sd 0.05, standard error 0.0289, times 4.30 is 0.124.
    assert second == [
        "CIFAR-10, ResNet-20, 3 seeds",
        "Most of them are.",
        "−0.25 [−0.37, −0.13] against 0.5, absent at 0 ✗ contradicted",
    ]


def test_the_matrix_has_a_mark_for_each_test_that_leads_to_its_chapter_and_back(book, build):
    publish(book, answers(NONE), answers(NONE))
    page, _ = build()
    matrix = page[page.index('<div class="inv-matrix">') :]
    row = next(r for r in re.findall(r"<tr.*?</tr>", matrix, re.S) if "<code>di.verifier</code>" in r)
    assert 'class="inv-row of-contradicted"' in row
    digits, mnist, cifar, imagenet, without = re.findall(r"<td>(.*?)</td>", row, re.S)
    assert "inv-verdict inv-holds" in digits
    assert "digits, BN-CNN, 3 seeds: holds" in digits
    assert "Few of the scans are." in digits
    assert "inv-contradicted" in cifar
    assert (mnist, imagenet, without) == ("", "", "")
    assert 'href="notebooks/01_deepinversion.html#claim-di-verifier"' in cifar
    assert 'href="#board-claim-di-verifier"' in row
    assert 'id="board-claim-di-verifier"' in page
    assert matrix.count('class="inv-row') == len(load_claims())


def test_the_matrix_is_filtered_by_style_alone(book, build):
    publish(book, answers(NONE), answers(NONE))
    page, _ = build()
    boxes = re.findall(r'<input type="checkbox" class="(of-[\w-]+)" checked>', page)
    sheet = (ROOT / "book/_static/figures.css").read_text("utf8")
    assert boxes
    for box in boxes:
        assert f".inv-matrix:has(input.{box}:not(:checked)) tr.{box}" in sheet
    assert "<script" not in page[page.index('<div class="inv-matrix">') :].partition("</table>")[0]


def test_what_changed_against_the_first_ledger_is_listed_with_its_reason(book, build):
    publish(book, answers(NONE), answers(NONE))
    page, _ = build()
    ((claim, before, now, why),) = cells(page, "di.clipping", 1)
    assert claim.startswith("di.clipping without clipping")
    assert (before, now) == ("holds", "✗ contradicted")
    assert why == load_rules()["di.clipping"].why
    ((_, before, now, _),) = cells(page, "di.batch-size", 1)
    assert (before, now) == ("does not hold", "◐ in part")
    with pytest.raises(StopIteration):
        cells(page, "di.amp", 1)  # out of reach then, not tested now

    publish(book, answers(SURE), answers(SURE))
    page, _ = build()
    with pytest.raises(StopIteration):
        cells(page, "di.clipping", 1)  # held then, holds now


def test_recorded_runs_that_no_longer_fit_are_warnings(book, build):
    publish(book, answers(), answers())
    facts = {"title": "A run", "config": {}, "command": "make", "seeds": [0, 1], "seconds": 1, "device": "cpu"}
    folder = book / "book/recorded"
    folder.mkdir(parents=True)
    for name, network in (("first", "a1"), ("second", "b2")):
        measured = {"ours": {"psnr": [1.0, 2.0]}}
        record(name, measured=measured, folder=folder, networks={"net": network}, **facts)
    measured = {"ours": {"psnr": [1.0, 2.0, 3.0]}, "noise": {"psnr": 0.0}}
    record("third", measured=measured, folder=folder, claims={"dci.shallow": "0" * 12}, **facts)
    _, warnings = build()
    assert "recorded runs first and second: the network 'net' is not the same" in warnings
    assert "recorded run third: the rule of dci.shallow has changed" in warnings
    assert "recorded run third, row 'ours': psnr has 3 numbers for the seeds 0, 1" in warnings
    assert warnings.count("WARNING") == 3


def test_a_recorded_run_leads_to_its_file_if_it_is_there(book, build, monkeypatch):
    said = property(lambda test: f"{test.data}, recorded run {'run_1' if test.grade == 'real' else 'run_2'} (younger)")
    monkeypatch.setattr(verdicts.Test, "tested_on", said)
    publish(book, answers(), answers())
    facts = {"title": "A run", "config": {}, "command": "make", "seeds": [0], "seconds": 1, "device": "cpu"}
    record("run_1", measured={"ours": {"psnr": 1.0}}, folder=book / "book/recorded", **facts)
    page, _ = build()
    assert 'href="./_static/recorded/run_1.json">run_<wbr>1</a> (younger)' in page
    assert "run_2.json" not in page
    assert "digits, recorded run run_<wbr>2 (younger)" in page


def test_a_chapter_without_answers_is_a_warning(book, build):
    publish(book, answers(), None)
    page, warnings = build()
    assert "01_deepinversion.json is missing" in warnings
    assert warnings.count("is missing") == 1
    assert "68 wait for a chapter" in page


def test_answers_of_another_run_are_stale(book, build):
    publish(book, shown=answers(), saved=answers(NONE))
    assert "not those in the table on the chapter's page" in build()[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["claims"].pop(), "holds no answer to di.adaptive"),
        (lambda data: data["claims"][0].update(verdict="holds", reason="by hand"), "changed by hand"),
        (lambda data: data["claims"][0].update(verdict="does not hold"), "there is no verdict does not hold any more"),
        (lambda data: data["claims"][0].update(rule="0" * 12), "the rules of di.feature-term have changed"),
        (lambda data: data["claims"][0]["tests"][0].pop("effects"), "is damaged"),
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


def test_little_training_is_told_beside_the_data(book, build):
    claims = answers()
    claims.test("di.verifier", NONE, **REAL, scale=0.05)
    publish(book, claims, claims)
    page, warnings = build()
    assert warnings == ""
    _, (on, _, effect) = cells(page, "di.verifier", 0)
    assert on == "CIFAR-10, ResNet-20, 3 seeds, 5% of the paper’s training"
    assert effect.endswith("⊘ opposed at this scale")


def test_the_rules_stand_on_the_page_with_all_verdicts():
    page = (ROOT / "book/scoreboard.md").read_text("utf8")
    assert "less than a tenth of the paper's training" in page
    assert SCALE == 0.1
    assert "{scoreboard} changes\n" in page
    for verdict in VERDICTS:
        sign, words = mark(verdict).split(" ", 1)
        assert f"- {sign} **{words}**: " in page
