"""The losses against their definitions, their identities, and the numbers that break naive code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.training import losses

LOSSES = {
    "cross_entropy": lambda s, t, y: losses.cross_entropy(s, y),
    "hard": lambda s, t, y: losses.hard(s, t),
    "soft": lambda s, t, y, T=4.0: losses.soft(s, t, T),
    "standardised": lambda s, t, y, T=4.0: losses.standardised(s, t, T),
    "dist": lambda s, t, y, T=4.0: sum(losses.dist(s, t, T, torch.ones(1, len(s)))),
    "decoupled": lambda s, t, y, T=4.0: weighed(s, t, y, T),
    "windowed": lambda s, t, y, T=4.0: weighed(s, t, y, T, window=2),
}
seeds = st.integers(0, 2**31)
temperatures = st.floats(0.05, 20)


def weighed(s: Tensor, t: Tensor, y: Tensor, T: float, alpha=1.0, beta=8.0, window=0) -> Tensor:
    """Equation 7 of the DKD paper."""
    tckd, nckd = losses.decoupled(s, t, y, T, window)
    return alpha * tckd + beta * nckd


def batch(seed: int, n: int = 5, classes: int = 12, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    s = scale * torch.randn(n, classes, generator=g, dtype=torch.float64)
    t = scale * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return s.requires_grad_(), t, torch.randint(classes, (n,), generator=g)


def by_definition(s: Tensor, t: Tensor, y: Tensor, T: float, alpha: float, beta: float) -> Tensor:
    """Equations 3-7 of the DKD paper written out with probabilities, sample by sample."""
    values = []
    for i in range(len(s)):
        p_s, p_t = (s[i] / T).softmax(0), (t[i] / T).softmax(0)
        k = int(y[i])
        b_s, b_t = torch.stack([p_s[k], 1 - p_s[k]]), torch.stack([p_t[k], 1 - p_t[k]])
        others = [j for j in range(len(p_s)) if j != k]
        q_s, q_t = p_s[others] / (1 - p_s[k]), p_t[others] / (1 - p_t[k])
        tckd = (b_t * (b_t / b_s).log()).sum()
        nckd = (q_t * (q_t / q_s).log()).sum()
        values.append(T**2 * (alpha * tckd + beta * nckd))
    return torch.stack(values)


@given(seeds, st.floats(0.5, 20), st.floats(0, 3), st.floats(0, 10))
@settings(deadline=None, max_examples=40)
def test_decoupled_is_its_definition_in_value_and_gradient(seed, T, alpha, beta):
    s, t, y = batch(seed)
    ours = weighed(s, t, y, T, alpha, beta)
    theirs = by_definition(s, t, y, T, alpha, beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    (g_ours,) = torch.autograd.grad(ours.sum(), s)
    (g_theirs,) = torch.autograd.grad(theirs.sum(), s)
    torch.testing.assert_close(g_ours, g_theirs, rtol=1e-8, atol=1e-10)


@given(seeds, st.integers(0, 4))
@settings(deadline=None, max_examples=20)
def test_a_temperature_and_a_window_of_each_sample_give_what_one_number_gives(seed, window):
    """Models of a stack differ in them."""
    s, t, y = batch(seed)
    T, windows = torch.full((len(s), 1), 4.0, dtype=s.dtype), torch.full((len(s), 1), float(window))
    one = (*losses.decoupled(s, t, y, 4.0, window), losses.soft(s, t, 4.0))
    each = (*losses.decoupled(s, t, y, T, windows), losses.soft(s, t, T))
    assert all(torch.equal(a, b) for a, b in zip(one, each, strict=True))


@given(seeds, temperatures, st.integers(0, 4))
@settings(deadline=None, max_examples=60)
def test_soft_is_target_part_plus_weighted_non_target_part(seed, T, window):
    s, t, y = batch(seed)
    tckd, nckd = losses.decoupled(s, t, y, T, window)
    near = (torch.arange(t.shape[1]) - y.unsqueeze(1)).abs() <= window
    p_rest = (t / T).softmax(1).masked_fill(near, 0).sum(1)
    torch.testing.assert_close(losses.soft(s, t, T), tckd + p_rest * nckd, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_gradient_rows_sum_to_zero_and_a_shift_changes_nothing(name, seed):
    s, t, y = batch(seed)
    value = LOSSES[name](s, t, y)
    assert value.shape == (len(s),)
    (gradient,) = torch.autograd.grad(value.sum(), s)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(s), dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(LOSSES[name](s + 7.5, t - 2.5, y), value, rtol=1e-9, atol=1e-9)
    assert gradient.abs().max() > 1e-8, "the student gets no gradient"


@pytest.mark.parametrize("name", ["cross_entropy", "hard", "soft", "standardised", "dist", "decoupled"])
@given(seed=seeds)
@settings(deadline=None, max_examples=15)
def test_permuting_the_classes_changes_nothing(name, seed):
    s, t, y = batch(seed)
    order = torch.randperm(s.shape[1], generator=torch.Generator().manual_seed(seed))
    moved = torch.argsort(order)[y]
    torch.testing.assert_close(
        LOSSES[name](s[:, order], t[:, order], moved), LOSSES[name](s, t, y), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", ["soft", "standardised", "decoupled", "windowed"])
@given(seed=seeds, T=temperatures)
@settings(deadline=None, max_examples=20)
def test_zero_exactly_at_the_teacher_and_positive_elsewhere(name, seed, T):
    s, t, y = batch(seed)
    at_teacher = t.clone().requires_grad_()
    value = LOSSES[name](at_teacher, t, y, T)
    (gradient,) = torch.autograd.grad(value.sum(), at_teacher)
    assert value.abs().max() < 1e-9
    assert gradient.abs().max() < 1e-9
    assert (LOSSES[name](s, t, y, T) > 0).all()


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_temperature_squared_keeps_the_gradient_scale(seed):
    """At high T the gradient of soft is (s - t) / C, whatever T is (Hinton et al., section 2.1)."""
    s, t, _ = batch(seed, scale=0.5)
    limit = (s - s.mean(1, keepdim=True) - (t - t.mean(1, keepdim=True))) / s.shape[1]
    for T in (200.0, 400.0):
        (gradient,) = torch.autograd.grad(losses.soft(s, t, T).sum(), s)
        torch.testing.assert_close(gradient, limit.detach(), rtol=0, atol=2e-3)


def test_hard_and_one_hot_targets_agree_with_indices():
    s, t, y = batch(0)
    one_hot = torch.nn.functional.one_hot(y, s.shape[1]).double()
    torch.testing.assert_close(losses.cross_entropy(s, one_hot), losses.cross_entropy(s, y))
    torch.testing.assert_close(losses.hard(s, t), losses.cross_entropy(s, t.argmax(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("T", [0.05, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("scale", [1.0, 30.0, 120.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_finite_with_finite_gradients_in_every_precision(name, scale, T, dtype):
    g = torch.Generator().manual_seed(3)
    s = (scale * (2 * torch.rand(16, 180, generator=g) - 1)).to(dtype).requires_grad_()
    t = (scale * (2 * torch.rand(16, 180, generator=g) - 1)).to(dtype)
    t[0] = s.detach()[0]  # a student that has arrived
    y = torch.randint(180, (16,), generator=g)
    y[1] = t[1].argmax()  # a teacher that is sure and right
    value = LOSSES[name](s, t, y) if name in ("cross_entropy", "hard") else LOSSES[name](s, t, y, T)
    assert value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(value.sum() / scale, s)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_float32_agrees_with_float64(T):
    s, t, y = batch(11, n=64, classes=180)
    exact = weighed(s, t, y, T)
    single = weighed(s.float(), t.float(), y, T)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


def test_feature_is_the_mean_square_per_sample():
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(losses.feature(a, b), ((a - b) ** 2).mean(1))
    with pytest.raises(ValueError, match="connector"):
        losses.feature(a, b[:, :3])


def test_standardised_by_hand():
    """z-scores of (0, 2) are (-1, 1), and of (3, 1) are (1, -1): KL is 2 tanh(1)."""
    value = losses.standardised(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 1.0]]), 1.0)
    torch.testing.assert_close(value, 2 * torch.tensor([1.0]).tanh())


@given(seeds, st.floats(0.01, 100), st.floats(-50, 50), temperatures)
@settings(deadline=None, max_examples=30)
def test_standardised_is_soft_of_z_scores_whatever_scale_and_shift(seed, scale, shift, T):
    s, t, _ = batch(seed)
    value = losses.standardised(s, t, T)
    z_s, z_t = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0) for x in (s, t))
    torch.testing.assert_close(value, losses.soft(z_s, z_t, T), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(losses.standardised(scale * s + shift, t, T), value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.standardised(s, scale * t - shift, T), value, rtol=1e-6, atol=1e-6)
    assert losses.standardised(scale * t + shift, t, T).abs().max() < 1e-6  # a student that has arrived
    (gradient,) = torch.autograd.grad(value.sum(), s)
    assert (gradient * s).sum(1).abs().max() < 1e-8  # along its own logits nothing changes


def test_standardised_of_equal_logits_is_finite():
    s = torch.full((2, 6), 3.0, requires_grad=True)
    value = losses.standardised(s, torch.randn(2, 6), 2.0)
    (gradient,) = torch.autograd.grad(value.sum(), s)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_dist_by_hand():
    """Two windows, two classes: rows and columns of the student run with the teacher's, or against them."""
    t = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    for s, wanted in ((3 * t, 0.0), (t.flip(1), 2.0)):
        inter, intra = losses.dist(s, t, 2.0, torch.ones(1, 2))
        torch.testing.assert_close(inter, torch.full((2,), 4 * wanted))
        torch.testing.assert_close(intra, torch.full((2,), 4 * wanted))
    # Both windows are of one kind: nothing varies over the batch, so that nothing is related there.
    inter, intra = losses.dist(t[[0, 0]], t[[0, 0]], 2.0, torch.ones(1, 2))
    torch.testing.assert_close(inter, torch.zeros(2))
    torch.testing.assert_close(intra, torch.full((2,), 4.0))


@given(seeds, st.floats(0.5, 4))
@settings(deadline=None, max_examples=30)
def test_dist_is_pearsons_correlation_of_rows_and_columns(seed, T):
    s, t, _ = batch(seed, n=8, classes=6, scale=1.0)
    inter, intra = losses.dist(s, t, T, torch.ones(2, 4))
    p_s, p_t = (s / T).softmax(1), (t / T).softmax(1)

    def apart(a, b):
        return T**2 * (
            1 - torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] for x, y in zip(a, b, strict=True)])
        )

    torch.testing.assert_close(inter, apart(p_s, p_t), rtol=1e-4, atol=1e-4)
    both = [apart(p_s[i : i + 4].T, p_t[i : i + 4].T).mean() for i in (0, 4)]  # two models, each its batch
    torch.testing.assert_close(intra.view(2, 4).mean(1), torch.stack(both), rtol=1e-4, atol=1e-4)


@given(seeds, st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_a_window_that_counts_twice_is_related_like_two(seed, weight):
    """Of a batch of three the last counts `weight`, which is what so many copies of it count."""
    s, t, _ = batch(seed, n=3, classes=6, scale=1.0)
    counts = torch.tensor([[1.0, 1.0, weight]], dtype=s.dtype)
    _, intra = losses.dist(s, t, 2.0, counts)
    rows = [0, 1, *[2] * weight]
    _, copied = losses.dist(s[rows], t[rows], 2.0, torch.ones(1, len(rows)))
    torch.testing.assert_close((intra * counts[0]).sum() / counts.sum(), copied.mean())


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_dist_is_zero_at_the_teacher_and_whatever_order_the_windows_have(seed):
    s, t, _ = batch(seed, n=6, scale=1.0)
    counts = torch.ones(1, 6)
    at_teacher = (t + torch.randn(6, 1, dtype=t.dtype)).requires_grad_()
    values = [x.mean() for x in losses.dist(at_teacher, t, 1.0, counts)]
    (gradient,) = torch.autograd.grad(sum(values), at_teacher)
    assert max(map(abs, values)) < 1e-4
    assert gradient.abs().max() < 1e-4
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for mine, moved in zip(
        losses.dist(s, t, 1.0, counts), losses.dist(s[order], t[order], 1.0, counts), strict=True
    ):
        assert mine.mean() > 0
        torch.testing.assert_close(moved, mine[order])


def test_dist_of_a_batch_is_the_same_bits_in_any_company():
    s, t, _ = batch(5, n=21, classes=180)
    s, t, counts = s.float(), t.float(), torch.ones(3, 7)
    counts[:, -2:] = 0.3
    T = torch.tensor([1.0, 2.0, 4.0]).repeat_interleave(7).unsqueeze(1)
    together = losses.dist(s, t, T, counts)
    for m in range(3):
        rows = slice(7 * m, 7 * m + 7)
        alone = losses.dist(s[rows], t[rows], float(T[rows][0]), counts[m : m + 1])
        assert all(torch.equal(a, b[rows]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("function", [losses.standardised, losses.dist])
def test_the_gradients_of_relations_are_those_of_finite_differences(function):
    s, t, _ = batch(2, n=4, classes=5, scale=1.0)
    more = [torch.tensor([[1.0, 1.0, 1.0, 0.5]], dtype=s.dtype)] if function is losses.dist else []
    assert torch.autograd.gradcheck(lambda x: function(x, t, 2.0, *more), s)


def test_refusals():
    s, t = torch.randn(3, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match="2 classes"):
        losses.decoupled(s, t, torch.tensor([0, 1, 0]), 1.0)
    with pytest.raises(ValueError, match="window 5"):
        losses.decoupled(torch.randn(3, 12), torch.randn(3, 12), torch.tensor([0, 1, 0]), 1.0, window=5)
    with pytest.raises(ValueError, match="temperature"):
        losses.soft(s, t, 0.0)
    with pytest.raises(ValueError, match="differ"):
        losses.soft(s, torch.randn(3, 3), 1.0)
