"""Tuning: as many tries for each method, the best of them, and not on what is evaluated."""

import math

import pytest
import torch

from invkit.analysis.tune import tune
from invkit.core.rng import seeded

REFERENCES = torch.rand(3, 2, generator=seeded(0))


def grey(references, generator, level, offset=0.0):
    if level > 2:
        raise ValueError("too bright")
    return torch.full((len(references), 1, 4, 4), level + offset)


def judge(images):
    return {"closeness": -abs(float(images.mean()) - 0.6)}


def test_the_best_setting_is_found_and_counted():
    grid = {"level": [0.0, 0.25, 0.5, 1.0], "offset": [0.0, 0.1]}
    tuned = tune({"grey": (grey, grid)}, REFERENCES, judge, "closeness")["grey"]
    assert tuned.settings == {"level": 0.5, "offset": 0.1}
    assert tuned.score == pytest.approx(0, abs=1e-6)
    assert tuned.tried == len(tuned.rows) == 8
    assert len({(row["level"], row["offset"]) for row in tuned.rows}) == 8


def test_every_method_has_as_many_tries_whatever_its_grid():
    calls = {"wide": 0, "narrow": 0}

    def counted(name):
        def method(references, generator, level):
            calls[name] += 1
            return grey(references, generator, level)

        return method

    methods = {
        "wide": (counted("wide"), {"level": [k / 20 for k in range(20)]}),
        "narrow": (counted("narrow"), {"level": [0.1, 0.6, 0.9]}),
    }
    tuned = tune(methods, REFERENCES, judge, "closeness", seeds=(0, 1))
    assert calls == {"wide": 6, "narrow": 6}
    assert {one.tried for one in tuned.values()} == {3}
    with pytest.raises(ValueError, match=r"tries must lie in 1\.\.3, the points of the grid of 'narrow', not 4"):
        tune(methods, REFERENCES, judge, "closeness", tries=4)


def test_the_draw_follows_the_generator():
    methods = {"grey": (grey, {"level": [k / 20 for k in range(20)]})}

    def drawn(seed):
        rows = tune(methods, REFERENCES, judge, "closeness", tries=5, generator=seeded(seed))["grey"].rows
        return [row["level"] for row in rows]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_setting_that_fails_counts_as_tried():
    tuned = tune({"grey": (grey, {"level": [3.0, 0.5]})}, REFERENCES, judge, "closeness")["grey"]
    assert (tuned.settings, tuned.tried) == ({"level": 0.5}, 2)
    assert sorted(row["closeness"] for row in tuned.rows)[0] == -math.inf


def test_what_is_evaluated_is_not_tuned_on():
    methods = {"grey": (grey, {"level": [0.5]})}
    others = torch.rand(4, 2, generator=seeded(1))
    tune(methods, REFERENCES, judge, "closeness", evaluation=others)
    with pytest.raises(ValueError, match="references must not be evaluated too, but 1 of 3 are"):
        tune(methods, REFERENCES, judge, "closeness", evaluation=torch.cat([others, REFERENCES[1:2]]))


@pytest.mark.parametrize(
    ("methods", "score", "says"),
    [
        ({}, "closeness", "methods must be one or more"),
        ({"grey": (grey, {})}, "closeness", "grid of 'grey' needs at least one value"),
        ({"grey": (grey, {"level": []})}, "closeness", "grid of 'grey' needs at least one value"),
        (
            {"grey": (grey, {"level": [0.5]})},
            "psnr",
            "score must be .* closeness, seconds, not 'psnr'",
        ),
        ({"grey": (grey, {"level": [3.0]})}, "closeness", "too bright"),
    ],
)
def test_what_is_refused(methods, score, says):
    with pytest.raises(ValueError, match=says):
        tune(methods, REFERENCES, judge, score)
