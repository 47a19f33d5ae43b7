"""Every point of a grid, once, and what stands out among their scores."""

import pytest

from invkit.analysis.grid import best_row, grid_search, local_maxima

GRID = {"lr": [0.1, 0.2, 0.4], "tv": [0.0, 1.0]}


def evaluate(lr, tv):
    return {"score": lr * 10 - tv}


def test_every_point_in_order():
    rows = grid_search(evaluate, GRID)
    assert [(r["lr"], r["tv"]) for r in rows] == [(a, b) for a in GRID["lr"] for b in GRID["tv"]]
    assert all(r["score"] == r["lr"] * 10 - r["tv"] for r in rows)
    assert best_row(rows, "score") == {"lr": 0.4, "tv": 0.0, "score": 4.0}


def test_finished_points_are_not_made_again(tmp_path):
    calls = []

    def counted(**point):
        calls.append(point)
        if len(calls) == 3:
            raise RuntimeError
        return evaluate(**point)

    with pytest.raises(RuntimeError):
        grid_search(counted, GRID, folder=tmp_path)
    rows = grid_search(counted, GRID, folder=tmp_path)
    assert len(calls) == 3 + 4
    assert rows == grid_search(evaluate, GRID)
    assert rows == grid_search(counted, GRID, folder=tmp_path)
    assert len(calls) == 7
    grid_search(counted, GRID | {"lr": [0.1, 0.8]}, folder=tmp_path)  # a new value adds only its own points
    assert [c["lr"] for c in calls[7:]] == [0.8, 0.8]


def test_a_damaged_point_is_named(tmp_path):
    grid_search(evaluate, {"lr": [0.1], "tv": [0.0]}, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    with pytest.raises(ValueError, match=path.name):
        grid_search(evaluate, {"lr": [0.1], "tv": [0.0]}, folder=tmp_path)


@pytest.mark.parametrize("grid", [{}, {"lr": []}, {"lr": [1], "tv": []}])
def test_an_empty_grid_is_refused(grid):
    with pytest.raises(ValueError, match="at least one value"):
        grid_search(evaluate, grid)


def test_local_maxima_over_tuples():
    grid = {"betas": [(0.5, 0.9), (0.9, 0.999), (0.0, 0.9)], "lr": (0.1, 0.2)}
    rows = grid_search(lambda betas, lr: {"s": betas[0] + lr}, grid)
    assert local_maxima(rows, grid, "s") == [{"betas": [0.9, 0.999], "lr": 0.2, "s": 1.1}]
    raw = [{"betas": betas, "s": betas[0]} for betas in grid["betas"]]
    assert local_maxima(raw, {"betas": grid["betas"]}, "s") == [raw[1]]


def test_local_maxima_stand_out_by_the_margin():
    rows = [{"a": a, "s": s} for a, s in enumerate([1.0, 0.97, 1.2, 1.0])]
    assert len(local_maxima(rows, {"a": range(4)}, "s")) == 2
    assert [row["a"] for row in local_maxima(rows, {"a": range(4)}, "s", margin=0.05)] == [2]


def test_local_maxima():
    grid = {"a": [0, 1, 2], "b": [0, 1, 2]}
    scores = [[5, 1, 4], [1, 0, 1], [3, 1, 9]]
    rows = [{"a": a, "b": b, "s": scores[a][b]} for a in range(3) for b in range(3)]
    assert sorted(r["s"] for r in local_maxima(rows, grid, "s")) == [3, 4, 5, 9]
    concave = [{"a": a, "b": b, "s": -((a - 1) ** 2) - (b - 2) ** 2} for a in range(3) for b in range(3)]
    assert [(r["a"], r["b"]) for r in local_maxima(concave, grid, "s")] == [(1, 2)]
    assert best_row(concave, "s")["a"] == 1


def test_a_ridge_across_the_grid_is_one_hill():
    grid = {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    ridge = [{"a": a, "b": b, "s": 10 - (a + b - 3) ** 2 * 5 - 0.1 * a} for a in range(4) for b in range(4)]
    assert [(r["a"], r["b"]) for r in local_maxima(ridge, grid, "s")] == [(0, 3)]
