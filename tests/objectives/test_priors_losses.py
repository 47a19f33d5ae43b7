"""Image priors and losses on logits, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from invkit.objectives import losses, priors


def test_total_variation_by_hand():
    x = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(1, 1, 2, 2)
    # horizontal 1, 4; vertical 3, 6; one diagonal 8 - 1 = 7, the other 4 - 2 = 2
    by_hand = math.hypot(1, 4) + math.hypot(3, 6) + 7 + 2
    assert float(priors.total_variation(x)) == pytest.approx(by_hand, rel=1e-6)


def test_total_variation_over_loops():
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    for n in range(2):
        total = 0.0
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            pairs = (
                (c, i, j, i + dy, j + dx)
                for c in range(3) for i in range(5) for j in range(4)
                if 0 <= i + dy < 5 and 0 <= j + dx < 4
            )  # fmt: skip
            total += math.sqrt(sum(float(x[n, c, k, m] - x[n, c, i, j]) ** 2 for c, i, j, k, m in pairs))
        assert float(priors.total_variation(x)[n]) == pytest.approx(total, rel=1e-12)


def test_l2_by_hand():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(priors.l2(x), x.square().sum((1, 2, 3)).sqrt())


@pytest.mark.parametrize("prior", [priors.total_variation, priors.l2])
def test_priors_are_per_image_and_smooth(prior):
    x = torch.rand(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert prior(x).shape == (3,)
    torch.testing.assert_close(prior(x), torch.cat([prior(x[i : i + 1]) for i in range(3)]))
    assert torch.autograd.gradcheck(prior, (x,))
    flat = torch.zeros(2, 3, 4, 4, requires_grad=True)  # the norm has no derivative here
    assert torch.autograd.grad(prior(flat).sum(), flat)[0].eq(0).all()


def test_total_variation_knows_no_offset_and_grows_with_contrast():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    tv = priors.total_variation(x)
    torch.testing.assert_close(priors.total_variation(x + 0.3), tv)
    torch.testing.assert_close(priors.total_variation(2 * x), 2 * tv)
    torch.testing.assert_close(priors.total_variation(x.flip(3)), tv)
    torch.testing.assert_close(priors.total_variation(x.transpose(2, 3)), tv)


def test_weights_of_zero_leave_terms_out():
    assert list(priors.image_prior(0.1, 0.0)) == ["tv"]
    assert list(priors.image_prior(0.0, 0.1)) == ["l2"]
    assert priors.image_prior(0.0, 0.0) == {}


def test_cross_entropy_by_hand():
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    by_hand = -math.log(math.exp(1 / 2) / sum(math.exp(v / 2) for v in (1, 2, 3)))
    assert float(losses.cross_entropy(logits, torch.tensor([0]), 2.0)) == pytest.approx(by_hand, rel=1e-12)


def test_class_logit_reads_one_class():
    logits = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert losses.class_logit(logits, torch.tensor([1, 0])).tolist() == [-2.0, -3.0]


def js_by_hand(p, q):
    def kl(a, b):
        return sum(x * math.log2(x / y) for x, y in zip(a, b) if x > 0)

    m = [(x + y) / 2 for x, y in zip(p, q)]
    return (kl(p, m) + kl(q, m)) / 2


LOGITS = st.lists(st.floats(-8, 8), min_size=3, max_size=3)


@given(LOGITS, LOGITS)
def test_jensen_shannon_by_hand(a, b):
    a, b = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
    found = float(losses.jensen_shannon(a, b))
    assert found == pytest.approx(js_by_hand(a.softmax(1)[0].tolist(), b.softmax(1)[0].tolist()), abs=1e-12)
    assert found == pytest.approx(float(losses.jensen_shannon(b, a)), abs=1e-12)
    assert -1e-12 <= found <= 1 + 1e-12
    assert float(losses.jensen_shannon(a, a)) == pytest.approx(0, abs=1e-12)


def test_jensen_shannon_of_extremes():
    sure = torch.tensor([[80.0, 0.0, 0.0], [0.0, 80.0, 0.0]])
    assert float(losses.jensen_shannon(sure[:1], sure[1:])) == pytest.approx(1, abs=1e-6)
    very = 1e4 * sure  # exp would overflow; the gradient must stay finite as well
    x = very[:1].clone().requires_grad_()
    value = losses.jensen_shannon(x, very[1:]).sum()
    assert torch.autograd.grad(value, x)[0].isfinite().all()


def test_jensen_shannon_gradient():
    a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(losses.jensen_shannon, (a, b))


def test_jensen_shannon_temperature():
    a, b = torch.randn(2, 1, 4, dtype=torch.float64).unbind()
    torch.testing.assert_close(losses.jensen_shannon(a, b, 3.0), losses.jensen_shannon(a / 3, b / 3))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_by_hand(temperature):
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    found = losses.distillation(student, teacher, temperature)
    for i in range(3):
        p, q = ([math.exp(float(v) / temperature) for v in row[i]] for row in (teacher, student))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        by_hand = temperature**2 * sum(x * math.log(x / y) for x, y in zip(p, q))
        assert float(found[i]) == pytest.approx(by_hand, abs=1e-12)


def test_distillation_is_nothing_for_equals_and_finite_for_the_sure():
    logits = torch.randn(3, 4)
    assert losses.distillation(logits, logits).abs().max() < 1e-6
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert losses.distillation(sure, sure.flip(0)).isfinite().all()
    # The factor keeps the gradient's size over temperatures: at high T it is (s - t) / K, centred.
    student = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 4, dtype=torch.float64)
    gradient = torch.autograd.grad(losses.distillation(student, teacher, 1e4).sum(), student)[0]
    gap = student.detach() - teacher
    torch.testing.assert_close(gradient, (gap - gap.mean()) / 4, rtol=1e-3, atol=1e-3)
    # and the direction of the divergence is teacher || student
    by_torch = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(losses.distillation(student, teacher), by_torch)


def test_kl_divergence_by_hand():
    wanted = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    logits = torch.tensor([[0.0, math.log(3), 0.0], [1.0, 2.0, -1.0]], dtype=torch.float64)
    q = (logits[1] / 2).softmax(0)
    first = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.6)  # Q = (1, 3, 1) / 5
    second = sum(float(p * (p / k).log()) for p, k in zip(wanted[1], q, strict=True))
    assert float(losses.kl_divergence(logits, wanted)[0]) == pytest.approx(first)
    assert float(losses.kl_divergence(logits, wanted, temperature=2.0)[1]) == pytest.approx(second)
    hot = F.one_hot(torch.tensor([2, 0]), 3).double()
    expected = F.cross_entropy(logits, torch.tensor([2, 0]), reduction="none")
    torch.testing.assert_close(losses.kl_divergence(logits, hot), expected)


def test_pairwise_terms_by_hand():
    features = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
    root = math.sqrt(0.5)  # cosines of the pairs: root, 0, -root
    cosines = losses.cosine_matrix(features)
    assert float(losses.pairwise_cosine(cosines)) == pytest.approx(0, abs=1e-12)
    assert float(losses.pairwise_cosine(losses.cosine_matrix(features[:2]))) == pytest.approx(root)
    assert float(losses.gram_orthogonality(cosines)) == pytest.approx(4 * 0.5 / 9)


def test_pairwise_terms_over_loops():
    features = torch.randn(6, 4, dtype=torch.float64)
    pairs = [(i, j) for i in range(6) for j in range(6)]
    cos = {(i, j): float(F.cosine_similarity(features[i], features[j], dim=0)) for i, j in pairs}
    cosines = losses.cosine_matrix(features)
    mean = sum(cos[i, j] for i, j in pairs if i != j) / 30
    assert float(losses.pairwise_cosine(cosines)) == pytest.approx(mean)
    square = sum((cos[i, j] - (i == j)) ** 2 for i, j in pairs) / 36
    assert float(losses.gram_orthogonality(cosines)) == pytest.approx(square)


@pytest.mark.parametrize("term", [losses.pairwise_cosine, losses.gram_orthogonality])
def test_gradients_of_pairwise_terms(term):
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: term(losses.cosine_matrix(x)), features)


def test_gradient_of_the_kl_divergence():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4, [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: losses.kl_divergence(x, wanted, 1.5), logits)


def test_one_image_has_no_pairs():
    with pytest.raises(ValueError, match=r"at least 2 images, not \(1, 5\)"):
        losses.cosine_matrix(torch.ones(1, 5))


@pytest.mark.parametrize("prior", [priors.squared_variation, priors.out_of_range])
def test_priors_of_reconstruction(prior):
    x = (torch.rand(2, 2, 3, 4, dtype=torch.float64) * 3 - 1).requires_grad_()
    assert prior(x).shape == (2,)
    assert torch.autograd.gradcheck(prior, x)


def test_priors_of_reconstruction_over_loops():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64) * 3 - 1
    for n in range(2):
        places = [(c, i, j) for c in range(3) for i in range(4) for j in range(5)]
        total = sum(float(x[n, c, i + 1, j] - x[n, c, i, j]) ** 2 for c, i, j in places if i < 3)
        total += sum(float(x[n, c, i, j + 1] - x[n, c, i, j]) ** 2 for c, i, j in places if j < 4)
        assert float(priors.squared_variation(x)[n]) == pytest.approx(total)
        outside = sum(max(0, -float(x[n][p])) + max(0, float(x[n][p]) - 1) for p in places)
        assert float(priors.out_of_range(x)[n]) == pytest.approx(outside)
