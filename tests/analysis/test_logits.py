"""Changed logits by hand, and what is refused."""

import pytest
import torch

from invkit.analysis import logits as lo
from invkit.core.rng import seeded

Z = torch.tensor([[1.0, 3.0], [0.0, -2.0]])


def test_shift_leaves_softmax_and_scale_the_order():
    assert lo.shift(Z, 2.0).tolist() == [[3, 5], [2, 0]]
    torch.testing.assert_close(lo.shift(Z, 2.0).softmax(1), Z.softmax(1))
    assert lo.scale(Z, 2.0).tolist() == [[2, 6], [0, -4]]


def test_perturb_goes_that_far_in_another_direction_each_time():
    moved = lo.perturb(Z, 1.5, generator=seeded(0)) - Z
    torch.testing.assert_close(moved.norm(dim=1), torch.full((2,), 1.5))
    assert not torch.allclose(moved[0], moved[1])
    torch.testing.assert_close(lo.perturb(Z, 1.5, generator=seeded(0)) - Z, moved)
    assert torch.equal(lo.perturb(Z, 0.0), Z)


def test_mix_has_both_ends_and_the_middle():
    assert lo.mix(Z, Z + 4, 0.0).equal(Z)
    assert lo.mix(Z, Z + 4, 1.0).equal(Z + 4)
    assert lo.mix(Z, Z + 4, 0.25).equal(Z + 1)


def test_nearest_of_the_known():
    known = torch.tensor([[0.0, 0.0], [1.0, 2.0], [9.0, 9.0]])
    assert lo.nearest(Z, known).tolist() == [1, 0]


def test_relative_change_by_hand():
    before = torch.tensor([[0.0, 0.0], [0.0, 4.0]])  # 4 apart
    after = torch.tensor([[3.0, 0.0], [0.0, 5.0]])  # moved by 3 and by 1
    assert lo.relative_change(before, after) == 0.5
    assert lo.relative_change(before, after, torch.tensor([[0.0, 0.0], [2.0, 0.0]])) == 1.0
    assert lo.relative_change(before.view(2, 1, 1, 2), after.view(2, 1, 1, 2)) == 0.5


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lo.shift(Z[0], 1.0), "logits"),
        (lambda: lo.scale(Z, 0.0), "positive"),
        (lambda: lo.perturb(Z, -1.0), "at least 0"),
        (lambda: lo.mix(Z, Z[:1], 0.5), "one shape"),
        (lambda: lo.relative_change(Z, Z[:1]), "one shape"),
        (lambda: lo.relative_change(Z[:1], Z[:1]), "two or more"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_moves_are_equally_long():
    z = torch.randn(300, 10, generator=seeded(1)) * 3 + 1
    moved = lo.moves(z, 0.5, generator=seeded(2))
    assert list(moved) == ["shifted", "scaled", "perturbed", "interpolated"]
    for name, after in moved.items():
        assert lo.relative_change(z, after) == pytest.approx(0.5, rel=0.03 if name == "interpolated" else 1e-5), name
    assert lo.moves(z, 1.0)["interpolated"].equal(z.roll(-1, 0))
    with pytest.raises(ValueError, match="two logits"):
        lo.moves(z[:1], 0.5)
