"""Rows over seeds: columns for a claim, and the lead at the worst seed."""

from invkit.analysis.compare import SeedRows


def test_columns_and_the_smallest_lead():
    rows = SeedRows({"a": [{"x": 3.0, "y": 0.0}, {"x": 5.0, "y": 1.0}], "d": {"x": 7.0}})
    rows.add({"b": [{"x": 1.0}, {"x": 4.5}], "c": {"x": 4.0}}, ", more")
    assert rows.columns(["x", "y"], "a") == {"a, x": [3, 5], "a, y": [0, 1]}
    assert rows["d"] == [{"x": 7.0}]
    assert rows.lead("x", "a", "b, more") == 0.5
    assert rows.lead("x", "a", "c, more") == -1  # one seed alone meets the first
