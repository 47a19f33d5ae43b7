"""Tables: plain rows, rows over seeds, and what is refused."""

import re

import pytest

from invkit.show.tables import separate_tables, table


def test_a_row_over_seeds_has_its_spread():
    nowhere = [{"x": float("nan")}, {"x": 1.0}]  # of one seed there is no score
    rows = {"one": {"x": 1.0}, "two": [{"x": 1.0}, {"x": 3.0}], "lone": [{"x": 0.5}], "none": nowhere}
    page = table(rows, 2, corner="run").to_html()
    assert "–" in page
    assert "nan" not in page
    assert "2.00 ± 1.41" in page
    assert "1.00" in page
    assert "0.50" in page
    assert "0.50 ±" not in page
    assert "run" in page


def test_numbers_have_about_three_digits_each_column_of_its_own():
    rows = {
        "ours": {"share": 0.12345, "psnr": 25.7664, "frechet": 143.3624, "pixels": 1234.4, "name": "a", "count": 1024},
        "theirs": {"share": 1.0, "psnr": 3.0, "frechet": 9.0, "count": 7, "none": None},
        "twice": [{"share": 0.5, "psnr": 20.0}, {"share": 0.7, "psnr": 22.0}],
    }
    data = table(rows).data.set_index("images")
    assert data.loc["ours", :"pixels"].tolist() == ["0.123", "25.77", "143.4", "1234"]
    assert data.loc["theirs", ["share", "psnr", "frechet", "count", "none"]].tolist() == [
        "1.000",
        "3.00",
        "9.0",
        "7",
        "–",
    ]
    assert data.loc["twice", ["share", "psnr"]].tolist() == ["0.600 ± 0.141", "21.00 ± 1.41"]
    assert ">1024<" in table(rows).to_html()
    assert table(rows).to_html().count(">–<") == 8 + 1  # what a row does not have, and what is none


@pytest.mark.parametrize(("rows", "sentence"), [({}, "no rows"), ({"a": []}, "'a' is an empty list")])
def test_nothing_to_show_is_refused(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        table(rows)


def test_rows_measured_by_nothing_in_common_stand_in_tables_of_their_own():
    rows = {
        "network": {"accuracy": 0.9},
        "step 1": {"bits": 0.5},
        "images": {"verifier": 0.8},
        "student": {"accuracy": 0.7, "verifier": 0.6},  # joins the first and the third
        "step 2": {"bits": 0.6},
    }
    found = [re.findall(r'scope="row">([^<]+)', part) for part in separate_tables(rows).split("</table>")[:-1]]
    assert found == [["network", "images", "student"], ["step 1", "step 2"]]


def test_scores_are_spelt_alike_in_names_and_heads():
    html = table({"psnr, ours": {"ssim": 0.5}, "tv": {"ssim": 0.25}}).to_html()
    assert re.findall(r">([^<>]*(?:PSNR|SSIM|roughness)[^<>]*)<", html) == ["SSIM", "PSNR, ours", "roughness"]
    assert "psnr" not in re.sub(r"<[^>]*>", "", html)
