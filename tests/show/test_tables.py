"""Tables: plain rows, rows over seeds, and what is refused."""

import pytest

from invkit.show.tables import table


def test_a_row_over_seeds_has_its_spread():
    page = table({"one": {"x": 1.0}, "two": [{"x": 1.0}, {"x": 3.0}], "lone": [{"x": 0.5}]}, 2, corner="run").to_html()
    assert "2.00 ± 1.41" in page
    assert "1.00" in page
    assert "0.50" in page
    assert "0.50 ±" not in page
    assert "run" in page


@pytest.mark.parametrize(("rows", "sentence"), [({}, "no rows"), ({"a": []}, "'a' is an empty list")])
def test_nothing_to_show_is_refused(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        table(rows)
