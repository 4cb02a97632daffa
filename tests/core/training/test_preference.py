"""Every objective against values computed by hand, and its gradients against a small implementation of their own."""

import math

import numpy as np
import pytest
import torch

from core.training.preference import changed, flow_preference, over_grid, text_preference, unpaired, weighted_means

RANDOM = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dpo(values, beta, eps):
    """Robust DPO as its paper writes it, in numpy: good, bad, reference of both [4, n]."""
    good, bad, good_ref, bad_ref = values
    h = beta * ((good - good_ref) - (bad - bad_ref))
    return (-(1 - eps) * np.log(sigmoid(h)) + eps * np.log(sigmoid(-h))) / (1 - 2 * eps)


def flow_dpo(values, beta):
    good, bad, good_ref, bad_ref = values
    return -np.log(sigmoid(-beta / 2 * ((good - good_ref) - (bad - bad_ref))))


def kto(rewards, good, z):
    return np.where(good, 1 - sigmoid(rewards - z), 1 - sigmoid(z - rewards))


def slopes(function, x, step=1e-6):
    """Derivatives of the sum by central differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        found[place] = (function(up).sum() - function(down).sum()) / (2 * step)
    return found


def agree(ours, theirs, x):
    """Values and gradients of a loss of two sides; references are constants."""
    leaves = [torch.tensor(row, requires_grad=number < 2) for number, row in enumerate(x)]
    losses = ours(leaves[0], leaves[1], (leaves[2], leaves[3]))
    np.testing.assert_allclose(losses.detach().numpy(), theirs(x), rtol=1e-10)
    losses.sum().backward()
    for number in (0, 1):
        np.testing.assert_allclose(leaves[number].grad.numpy(), slopes(theirs, x)[number], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_preferences_of_texts(eps):
    agree(lambda *a: text_preference(*a, 0.3, eps), lambda x: dpo(x, 0.3, eps), RANDOM.normal(size=(4, 6)) * 3)


def test_preferences_of_pictures():
    agree(lambda *a: flow_preference(*a, 7.0), lambda x: flow_dpo(x, 7.0), RANDOM.uniform(0.5, 1.5, size=(4, 6)))


def test_single_good_and_bad_ones():
    rewards, good = RANDOM.normal(size=7) + 0.2, np.array([1, 0, 1, 1, 0, 0, 1], bool)
    leaf = torch.tensor(rewards, requires_grad=True)
    z = 0.3
    losses = unpaired(leaf, torch.tensor(good), torch.tensor(z, dtype=leaf.dtype))
    np.testing.assert_allclose(losses.detach().numpy(), kto(rewards, good, z), rtol=1e-10)
    losses.sum().backward()
    slope = sigmoid(rewards - z) * sigmoid(z - rewards)
    np.testing.assert_allclose(leaf.grad.numpy(), np.where(good, -slope, slope), rtol=1e-10)


def test_values_by_hand():
    two, one, nought = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([0.0])
    # h = (2 - 1) - (0 - 1) = 2; beta 0.5: -log sigmoid(1) = log(1 + e^-1)
    assert text_preference(two, nought, (one, one), 0.5).item() == pytest.approx(math.log(1 + math.exp(-1)))
    # eps 0.1: (0.9 log(1 + e^-1) - 0.1 log(1 + e)) / 0.8
    robust = (0.9 * math.log(1 + math.exp(-1)) - 0.1 * math.log(1 + math.exp(1))) / 0.8
    assert text_preference(two, nought, (one, one), 0.5, 0.1).item() == pytest.approx(robust)
    # the chosen error fell by 1 and the rejected one rose by 1: -log sigmoid(beta / 2 * 2), beta 1
    assert flow_preference(nought, two, (one, one), 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    # rewards 1.5 and -0.5, z = 0.5: 1 - sigmoid(1) for the good one, 1 - sigmoid(1) for the bad one
    both = unpaired(torch.tensor([1.5, -0.5]), torch.tensor([True, False]), torch.tensor(0.5))
    assert both.tolist() == pytest.approx([1 - 1 / (1 + math.exp(-1))] * 2)


def test_at_the_beginning_a_preference_costs_log_two():
    x = torch.tensor(RANDOM.normal(size=(2, 5)))
    assert torch.equal(text_preference(*x, tuple(x), 0.1), torch.full((5,), math.log(2), dtype=x.dtype))
    assert torch.equal(flow_preference(*x, tuple(x), 100.0), torch.full((5,), math.log(2), dtype=x.dtype))


def test_robust_losses_are_right_on_average_for_flipped_judgements():
    """Expected over flips of a share eps, robust DPO is DPO on the true order (the paper's lemma)."""
    x = torch.tensor(RANDOM.normal(size=(4, 9)))
    right = text_preference(x[0], x[1], (x[2], x[3]), 1.0, 0.2)
    flipped = text_preference(x[1], x[0], (x[3], x[2]), 1.0, 0.2)
    true = text_preference(x[0], x[1], (x[2], x[3]), 1.0)
    torch.testing.assert_close(0.8 * right + 0.2 * flipped, true)


def test_changed_tokens_and_marked_parts_count_more():
    # 1, 5, 1, 5, 1 (the end marker) over their mean 2.6
    assert (2.6 * changed([5, 6, 7, 8], [5, 9, 7], 5.0)).tolist() == pytest.approx([1, 5, 1, 5, 1])
    assert changed([5, 6], [5, 6], 5.0).tolist() == [1, 1, 1]
    mask = np.zeros((32, 32), bool)
    mask[:16, :8] = True  # half of the first of four tokens
    assert over_grid(mask, (2, 2), 5.0).tolist() == [3, 1, 1, 1]
    values, weights = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([3.0, 1.0, 2.0])
    assert weighted_means(values, weights, [2, 1]).tolist() == [1.5, 10.0]
