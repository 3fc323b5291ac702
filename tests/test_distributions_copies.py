"""Deep copies of distributions are over copies of the leaves, as those of torch's are."""

import copy

import pytest
import torch
from torch.distributions import Independent

from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("law", [ReparameterizedCategorical, ReparameterizedBernoulli])
def test_a_deep_copy_is_over_copies_of_the_leaves_and_shares_what_is_computed(law, kind):
    """A module that holds a distribution over its parameters, expanded or mixed, can be copied, as torch's can."""
    leaf = torch.nn.Parameter(torch.tensor([[0.2, 0.5], [0.9, 0.3]]))
    unimix = torch.nn.Parameter(torch.tensor(0.1))
    for change in (lambda q: q, lambda q: q.expand((3, *q.batch_shape)), lambda q: Independent(q, 1)):
        for more in (
            {},
            {"unimix": 0.1},
            {"unimix": unimix},
            {"estimator": "gumbel_softmax", "temperature": 2 * unimix},
        ):
            memo: dict = {}
            made = copy.deepcopy(change(law(**{kind: leaf}, **more)), memo)
            (slope,) = torch.autograd.grad(made.rsample().pow(2).sum(), memo[id(leaf)])
            assert slope.shape == leaf.shape
            assert torch.equal(made.mean, change(law(**{kind: leaf}, **more)).mean)
            computed = copy.deepcopy(change(law(**{kind: leaf * 1.0}, **more)))
            (slope,) = torch.autograd.grad(computed.rsample().pow(2).sum(), leaf)
            assert slope.shape == leaf.shape
    pair = law(**{kind: leaf})
    assert torch.autograd.grad(copy.deepcopy(pair.conjugate_update(pair)[0]).mean.pow(2).sum(), leaf)[0].any()
