"""Entropy and KL where classes are impossible."""

import pytest
import torch

from catreparam import entropy, kl

IMPOSSIBLE = [0.3, -torch.inf, 1.0]


@pytest.mark.parametrize("prior", [[0.1, -torch.inf, 0.2], [0.1, 0.5, 0.2]])
def test_kl_gives_impossible_classes_no_share_and_no_gradient(prior):
    logits = torch.tensor(IMPOSSIBLE, requires_grad=True)
    value = kl(logits, torch.tensor(prior))
    p, q = torch.softmax(logits, -1)[[0, 2]], torch.softmax(torch.tensor(prior), -1)[[0, 2]]
    wanted = (p * (p.log() - q.log())).sum()
    gradient, expected = (torch.autograd.grad(loss, logits)[0] for loss in (value, wanted))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient, expected)
    assert gradient[1] == 0


def test_kl_is_infinite_where_the_prior_forbids_what_is_allowed():
    assert kl(torch.zeros(3), torch.tensor(IMPOSSIBLE)) == torch.inf


def test_entropy_of_impossible_classes_has_no_gradient():
    logits = torch.tensor(IMPOSSIBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy(logits), logits)
    assert gradient[1] == 0
    assert gradient.isfinite().all()
