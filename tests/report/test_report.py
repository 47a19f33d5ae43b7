"""A whole report at its smallest: every section, its page, what is skipped and why, and going on where it was."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch

import invkit as ik
from invkit.report import SECTIONS, Case, Pair, Pictures, Report, open_report
from invkit.report import report as module
from invkit.report.__main__ import main
from invkit.report.section import Section
from invkit.report.sections.classes import scrambled
from invkit.report.sections.remedies import _summary as summary_of_remedies
from invkit.show.grids import image_grid
from invkit.show.spread import bar_with_spread
from invkit.testing import tiny_target

IMAGES = "folder:images"


@pytest.fixture
def whole(at_home):
    """The report with both kinds of images and every step counted as too many."""
    return open_report("my_file:make_net", "my.pt", IMAGES, least=True, folder=at_home / "kept").run()


def test_every_section_answers_where_there_are_images(whole):
    assert list(whole.sections) == list(SECTIONS)
    for section in whole.sections.values():
        assert not section.skipped, section.name
        assert section.summary.endswith(".")
        assert re.search(r"\d", section.summary), "a sentence of the summary has a number"
    assert set(whole.sections["drawn"].images) == {"DeepInversion", "Plug-In Inversion", "Network Inversion"}


def test_the_page_needs_nothing_else(whole, tmp_path):
    text = whole.write(tmp_path / "report.html").read_text("utf8")
    assert not re.search(r"<script|https?://|<link|@import", text)
    assert len(re.findall(r'<img src="data:image/', text)) == len(re.findall("<img", text)) >= 3
    assert all(re.search(r'alt="[^"]{10,}', image) for image in re.findall("<img[^>]*>", text))
    for sentence in whole.summary:
        assert sentence.split(" (")[0].split("'")[0][:40] in text
    assert "Responsible use" in text
    assert "together" in text  # the table of seconds


def test_it_goes_on_where_it_was_broken_off(whole, at_home, monkeypatch):
    called = []
    for name, (_, title, part) in SECTIONS.items():

        def question(case, seconds, name=name, title=title):
            called.append(name)
            return Section(name=name, title=title)

        monkeypatch.setitem(SECTIONS, name, (question, title, part))
    (whole.folder / "leak.json").write_text("{ half a file")
    again = open_report("my_file:make_net", "my.pt", IMAGES, least=True, folder=at_home / "kept").run()
    assert called == ["leak"]
    assert again.sections["depth"].numbers == whole.sections["depth"].numbers
    assert torch.equal(again.sections["drawn"].images["DeepInversion"], whole.sections["drawn"].images["DeepInversion"])
    assert [f.picture for f in again.sections["drawn"].figures] == [f.picture for f in whole.sections["drawn"].figures]


def test_other_images_or_settings_are_another_report(at_home):
    def folder(**changes):
        options = {"data": IMAGES, "least": True, "folder": at_home / "kept"} | changes
        return open_report("my_file:make_net", "my.pt", **options).folder

    folders = [folder(), folder(seed=1), folder(data=""), folder(minutes=3.0), folder(classes=[1, 2])]
    assert len(set(folders)) == len(folders)
    assert folder() == folders[0]


def test_weights_alone_are_enough_for_four_sections(at_home):
    report = open_report("my_file:make_net", "my.pt", least=True).run()
    skipped = {name: section.skipped for name, section in report.sections.items() if section.skipped}
    assert set(skipped) == {"leak", "remedies"}
    assert "10 or more training images" in skipped["leak"]


def test_without_batch_norm_the_report_says_what_it_leaves_out():
    target = tiny_target(size=(16, 16), batch_norm=False)
    report = Report(case=Case(target=target, pair=Pair(), classes=(0, 1, 2, 3), least=True))
    section = report.ask("drawn")
    assert "DeepInversion" not in section.images
    assert any("DeepInversion is left out" in paragraph for paragraph in section.paragraphs)
    assert "no batch norms" in " ".join(report.ask("identity").paragraphs)


def test_what_a_method_warns_of_this_network_is_a_sentence_of_the_report(at_home, recwarn):
    section = open_report("my_file:make_net", "my.pt", least=True).ask("drawn")
    assert any("DeepInversion: the network takes no images of (8, 8) pixels" in said for said in section.paragraphs)
    assert not [warning for warning in recwarn if "takes no images" in str(warning.message)]


def test_a_network_goes_by_the_name_of_its_file_wherever_that_lies(at_home):
    report = open_report("my_file:make_net", "my.pt", least=True)
    report.case.target.name = f"{at_home}/my_file.py:make_net"
    assert report.ask("identity").summary.startswith("my_file.py:make_net has ")


def test_all_measures_that_help_are_named_the_strongest_first():
    def runs(area: float) -> list[dict[str, float]]:
        return [{"accuracy": 0.5, "AUROC": area + noise} for noise in (0.0, 0.01, 0.02)]

    scores = {"as it is": runs(0.9), "weak": runs(0.8), "strong": runs(0.6), "none": runs(0.9)}
    said = summary_of_remedies(Section(name="remedies", title=""), scores)
    assert said.startswith("2 of 3 measures lower the AUROC of membership")
    assert said.index("strong (-0.30") < said.index("weak (-0.10")
    assert "none" not in said
    assert "each tried on 3 networks" in said


def test_images_are_scrambled_each_in_its_own_order():
    image = torch.rand(1, 2, 9, 8, generator=ik.seeded(0))
    mixed = scrambled(image.expand(6, -1, -1, -1), ik.seeded(0))
    assert len({tuple(one.flatten().tolist()) for one in mixed}) == 6
    for one in mixed:  # the ninth row fits no tile
        assert torch.equal(one.flatten(1).sort().values, image[0, :, :8].flatten(1).sort().values)
        tile = one[:, :2, :2]
        tiles = image[0, :, :8].unfold(1, 2, 2).unfold(2, 2, 2).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert any(torch.equal(tile, other) for other in tiles), "a tile is whole, in all channels"


def test_a_class_that_grey_does_not_become_stands_among_the_bars(at_home, monkeypatch):
    report = open_report("my_file:make_net", "my.pt", least=True)
    distances = torch.tensor([1.0, torch.inf] + [2.0] * 8)
    classes = sys.modules["invkit.report.sections.classes"]  # the package has the function by this name
    monkeypatch.setattr(classes, "distance_from_grey", lambda *_: distances)
    section = report.ask("classes")
    assert "1 (not reached);" in section.figures[0].alt
    assert section.summary.startswith("At worst (")


def test_few_others_are_called_all_of_them(at_home):
    """A hundredth of forty held-out images is none of them."""
    section = open_report("my_file:make_net", "my.pt", IMAGES, least=True).ask("leak")
    assert list(section.tables["Members against others, this network"]["its answers"]) == [
        "AUROC",
        "p",
        "members above every held-out image",
    ]


def test_a_transformer_is_inverted_by_pixels_where_no_inverse_can_be_learnt():
    spec = tiny_target(channels=1, size=(16, 16)).spec
    target = ik.Target(ik.networks.build("vit_tiny", spec, width=16, seed=0), spec, "vit")
    report = Report(case=Case(target=target, pair=Pair(), classes=(0, 1, 2, 3), least=True))
    section = report.ask("depth")
    assert not section.skipped
    assert any("Inverses cannot be learnt" in paragraph for paragraph in section.paragraphs)
    assert "optimising pixels" in " ".join(section.paragraphs)
    assert report.ask("drawn").summary


def test_three_images_leave_out_what_needs_more(at_home):
    three = Pictures(pixels=torch.zeros(3, 1, 16, 16, dtype=torch.uint8), labels=torch.arange(3))
    report = open_report("my_file:make_net", "my.pt", least=True)
    report.case.pair = Pair(train=three, heldout=three)
    report.run()
    assert "there are 3 and 3" in report.sections["leak"].skipped
    assert not report.sections["depth"].skipped
    assert "photographs" in report.sections["depth"].summary


def test_images_without_labels_can_still_be_told_from_others(at_home):
    report = open_report("my_file:make_net", "my.pt", IMAGES, least=True)
    pair = report.case.pair
    report.case.pair = Pair(train=Pictures(pixels=pair.train.pixels), heldout=Pictures(pixels=pair.heldout.pixels))
    section = report.ask("leak")
    assert "without a control" in section.summary
    assert "calibrated AUROC" not in section.numbers
    assert report.ask("remedies").skipped


def test_thousands_of_classes_are_drawn_from(at_home):
    (at_home / "many.json").write_text(
        json.dumps({"input": [1, 16, 16], "mean": [0.3], "std": [0.3], "classes": list(range(5000))})
    )
    report = open_report("my_file:make_many", spec="many.json", least=True)
    assert len(report.case.classes) == 10
    section = report.ask("drawn")
    assert set(section.images) == {"Plug-In Inversion"}
    assert any("100 classes" in paragraph for paragraph in section.paragraphs)


def test_a_section_that_fails_says_why_and_the_others_go_on(at_home, monkeypatch):
    def broken(case, seconds):
        raise RuntimeError("the network refuses\nmore lines")

    monkeypatch.setitem(SECTIONS, "depth", (broken, "From how deep can the image be brought back?", 0.2))
    report = open_report("my_file:make_net", "my.pt", least=True).run(["identity", "depth", "classes"])
    assert report.sections["depth"].skipped == "the network refuses"
    assert report.sections["classes"].summary


def test_a_judge_must_be_another_network_for_the_same_classes(at_home):
    with pytest.raises(ValueError, match="is the network in question"):
        open_report("my_file:make_net", "my.pt", judge="my_file:make_net", judge_weights="my.pt")
    with pytest.raises(ValueError, match="knows 1,000 classes"):
        open_report("my_file:make_net", "my.pt", judge="torchvision/mobilenet_v3_small", judge_weights="none")


def test_a_judge_reads_what_was_drawn(at_home):
    report = open_report("my_file:make_net", "my.pt", least=True)
    report.case.judge = tiny_target(channels=1, size=(16, 16), classes=10, seed=3)
    assert "judge" in next(iter(report.ask("drawn").tables.values()))["noise"]
    assert "judge agrees" in report.ask("identity").summary


def test_the_command_writes_the_page_or_one_sentence(at_home, tmp_path, capsys, monkeypatch):
    out, kept = tmp_path / "r.html", tmp_path / "kept"
    monkeypatch.setattr(module, "SECTIONS", {"identity": SECTIONS["identity"]})
    options = ["--least", "--out", str(out), "--folder", str(kept)]
    assert main(["my_file:make_net", "--weights", "my.pt", *options]) == 0
    assert out.is_file()
    assert main(["my_file:make_net", "--weights", "nowhere.pt", "--spec", "my.json", *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "nowhere.pt" in error


def test_classes_that_the_network_lacks_are_refused(at_home):
    with pytest.raises(ValueError, match="10"):
        open_report("my_file:make_net", "my.pt", classes=[3, 10])


def test_time_must_be_positive(at_home):
    with pytest.raises(ValueError, match="minutes"):
        open_report("my_file:make_net", "my.pt", minutes=0)


@pytest.mark.parametrize(("seconds", "same"), [(0.01, True), (10.0, False)])
def test_a_network_that_is_slow_to_train_is_stood_in_for(at_home, monkeypatch, seconds, same):
    monkeypatch.setattr("invkit.report.case._step_seconds", lambda module, spec: seconds)
    case = open_report("my_file:make_net", "my.pt", IMAGES, minutes=1.0).case
    assert case.budget == 60
    assert case.same_shape is same
    own = {name: p.shape for name, p in case.target.module.named_parameters()}
    assert ({name: p.shape for name, p in case.untrained(0).named_parameters()} == own) is same


def test_a_chart_has_a_form_for_a_phone_and_may_be_turned_dark_also_when_read_again(tmp_path):
    section = Section(name="classes", title="Classes")
    section.picture(bar_with_spread({"cat": 1.0, "dog": 2.0}, ylabel="change"), "Bars.")
    section.picture(image_grid(torch.rand(2, 1, 4, 4)), "Images.")
    section.save(tmp_path)
    again = Section.load(tmp_path, "classes")
    assert again.figures == section.figures
    chart, images = (figure.to_html() for figure in again.figures)
    assert chart.startswith('<figure class="inv-chart"><picture><source media="(max-width: 40rem)"')
    assert images.startswith("<figure><img")


def test_a_section_that_was_kept_before_charts_had_two_forms_is_read(tmp_path):
    section = Section(name="classes", title="Classes")
    section.picture(image_grid(torch.rand(2, 1, 4, 4)), "Images.")
    section.save(tmp_path)
    kept = json.loads((tmp_path / "classes.json").read_text("utf8"))
    for figure in kept["figures"]:
        del figure["narrow"], figure["chart"]
    (tmp_path / "classes.json").write_text(json.dumps(kept), "utf8")
    assert Section.load(tmp_path, "classes").figures == section.figures
