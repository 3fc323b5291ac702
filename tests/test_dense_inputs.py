"""Nested, sparse and other odd tensors are one clear error, wherever a tensor is taken."""

from types import SimpleNamespace

import pytest
import torch

from catreparam.distributions import ReparameterizedBernoulli, ReparameterizedCategorical
from catreparam.nn import (
    CategoricalBottleneck,
    GumbelVectorQuantizer,
    TopKRouter,
    VectorQuantizer,
    Wav2Vec2GumbelVectorQuantizer,
)
from methods import ALL, loss_of

ROWS = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
CONFIG = SimpleNamespace(num_codevector_groups=2, num_codevectors_per_group=4, codevector_dim=4, conv_dim=(3,))
TAKERS = {
    **{name: lambda x, name=name: loss_of(name, x) for name in ALL},
    "law of logits": lambda x: ReparameterizedCategorical(logits=x),
    "law of probs": lambda x: ReparameterizedCategorical(probs=x),
    "coin of logits": lambda x: ReparameterizedBernoulli(logits=x),
    "coin of probs": lambda x: ReparameterizedBernoulli(probs=x),
    "bottleneck": lambda x: CategoricalBottleneck(3)(x),
    "quantiser": lambda x: VectorQuantizer(3, 8)(x),
    "quantiser of fairseq": lambda x: GumbelVectorQuantizer(3, 4, vq_dim=4)(x),
    "quantiser of Wav2Vec2": lambda x: Wav2Vec2GumbelVectorQuantizer(CONFIG)(x),
    "router": lambda x: TopKRouter(3, num_experts=4, k=2)(x),
}
DENSE = "must be a dense tensor, got torch.sparse_.*; pass .*to_dense"
ODD = {
    "jagged": (lambda: torch.nested.nested_tensor([*ROWS], layout=torch.jagged), "got a nested one; pass its rows"),
    "strided": (lambda: torch.nested.nested_tensor([*ROWS]), "must be a plain tensor, got a nested one; pass its rows"),
    "sparse": (lambda: ROWS.abs().to_sparse(), DENSE),
    "csr": (lambda: ROWS.abs().to_sparse_csr(), DENSE),
    "complex": (lambda: ROWS.to(torch.complex64), "floating"),
    "whole": (lambda: torch.ones(2, 4, 3, dtype=torch.long), "floating"),
}
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:Sparse .* tensor support")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("taker", TAKERS)
def test_odd_tensors_are_one_clear_error(taker, kind):
    make, message = ODD[kind]
    odd = make()
    if (taker, kind) == ("law of probs", "whole"):  # counts
        return
    with pytest.raises(TypeError, match=message) as raised:
        TAKERS[taker](odd)
    assert "\n" not in str(raised.value)
    if taker in ("router", "bottleneck", "quantiser", "quantiser of fairseq", "quantiser of Wav2Vec2"):
        with pytest.raises(ValueError, match=r"size 3|3 classes"):
            TAKERS[taker](torch.zeros(2, 4, 5))


def test_masks_are_dense_too():
    mask = torch.ones(2, 4, 3, dtype=torch.bool)
    for odd in (mask.to_sparse(), torch.nested.nested_tensor([*mask])):
        for name in ALL:
            with pytest.raises(TypeError, match=r"mask must be a (dense|plain) tensor"):
                loss_of(name, ROWS, mask=odd)
