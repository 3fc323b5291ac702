"""What modules count: once, in float32, over all examples and, if asked, all processes; nothing that is not finite."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import Wav2Vec2Config

from catreparam import set_validation
from catreparam.nn import (
    CategoricalBottleneck,
    GumbelVectorQuantizer,
    TopKRouter,
    VectorQuantizer,
    Wav2Vec2GumbelVectorQuantizer,
)
from methods import seeded

LOGITS = torch.randn(40, 5, generator=seeded(1))
CODES = Wav2Vec2Config(num_codevectors_per_group=5, codevector_dim=8, conv_dim=[8], conv_stride=[2], conv_kernel=[3])
COUNTING = [lambda: CategoricalBottleneck(5), lambda: VectorQuantizer(5, num_codes=5, kmeans_steps=0)]


@pytest.mark.parametrize("make", COUNTING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_usage_stays_in_float32_and_adds_to_one(make, dtype):
    plain, cast = make(), make()
    cast.load_state_dict(plain.state_dict())
    for batch in LOGITS.split(8):
        plain(batch, generator=seeded(2))
    for batch in LOGITS.split(8):
        cast.float()(batch, generator=seeded(2))
        cast.to(dtype)
    assert cast.usage.dtype == torch.float32
    assert torch.equal(cast.usage, plain.usage) or isinstance(cast, VectorQuantizer)  # whose codebook was rounded
    assert cast.usage.sum().item() == pytest.approx(1, abs=1e-6)
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in plain.state_dict().items()}
    cast.load_state_dict(half, assign=True)
    assert cast.usage.dtype == torch.float32
    cast = make().to(dtype)
    for batch in LOGITS.to(dtype).split(8):
        cast(batch)
    assert cast.usage.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("make", COUNTING)
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_counts_a_batch_once(make, reentrant):
    plain, kept = make(), make()
    kept.load_state_dict(plain.state_dict())
    found = []
    for module in (plain, kept):
        inputs = LOGITS.clone().requires_grad_()

        def step(x, module=module):
            result = module(x)
            return result if isinstance(result, torch.Tensor) else result.quantized + result.commitment_loss

        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(2):
                out = step(inputs) if module is plain else checkpoint(step, inputs, use_reentrant=reentrant)
                (out * LOGITS).sum().backward()
        found.append([inputs.grad, module.usage, module.num_batches])
    assert found[1][2] == 2
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_checkpointed_quantisers_draw_the_same_codes_after_the_codebook_started():
    module, inputs = VectorQuantizer(5, num_codes=8, replace_after=1), LOGITS.clone().requires_grad_()
    drawn = []

    def step(x):
        result = module(x)
        drawn.append(result.indices)
        return result.quantized

    for _ in range(3):
        checkpoint(step, inputs, use_reentrant=True).square().sum().backward()
    assert len(drawn) == 6
    assert all(torch.equal(*drawn[index : index + 2]) for index in (0, 2, 4))


def test_without_tracking_there_are_no_buffers():
    module = CategoricalBottleneck(5, track_usage=False)
    module(LOGITS)
    assert not list(module.buffers())
    assert not module.state_dict()
    with pytest.raises(RuntimeError, match="make it with track_usage=True"):
        _ = module.perplexity
    module.reset_usage()
    module.load_state_dict(CategoricalBottleneck(5).state_dict())  # of a module that tracks
    with pytest.raises(ValueError, match="needs kmeans_steps=0 and replace_after=0"):
        VectorQuantizer(5, num_codes=3, track_usage=False)
    assert not list(VectorQuantizer(5, 3, track_usage=False, kmeans_steps=0, replace_after=0).buffers())


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_is_not_counted(bad):
    module = CategoricalBottleneck(5, estimator=lambda logits, generator=None: logits.softmax(-1) * scale)
    scale = 1.0
    module(LOGITS)
    before = module.usage.clone()
    scale = bad
    with pytest.warns(UserWarning, match="left out of the usage statistics"):
        module(LOGITS)
    assert torch.equal(module.usage, before)
    assert module.num_batches == 1
    quantizer = VectorQuantizer(5, num_codes=4, replace_after=1)
    quantizer(LOGITS)
    poisoned = LOGITS.clone()
    poisoned[::2] = bad
    set_validation(False)
    try:
        quantizer(poisoned)
    finally:
        set_validation(True)
    assert bool(quantizer.codebook.isfinite().all())
    assert bool(quantizer.usage.isfinite().all())
    with pytest.raises(ValueError, match="logits hold"):
        quantizer(poisoned)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_every_module_refuses_what_is_not_finite_in_every_mode(bad, training):
    features = torch.randn(6, 8, generator=seeded(5))
    features[2, 3] = bad
    made = [CategoricalBottleneck(8, train_mode=mode, eval_mode=mode) for mode in ("sample", "argmax", "mean")]
    made += [TopKRouter(8, num_experts=4, k=2, train_mode=mode, eval_mode=mode) for mode in ("sample", "topk")]
    made += [GumbelVectorQuantizer(8, 5, vq_dim=8), Wav2Vec2GumbelVectorQuantizer(CODES), VectorQuantizer(8, 5)]
    for module in made:  # weights may make -inf of every class of the row
        with pytest.raises(ValueError, match=r"logits hold|logits allow no class"):
            module.train(training)(features)


def test_two_processes_count_together_if_asked(tmp_path):
    bed = Path(__file__).parent / "usage_bed.py"
    commands = [[sys.executable, str(bed), str(rank), str(tmp_path / "meeting")] for rank in range(2)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        first, second = (ast.literal_eval(process.communicate(timeout=300)[0]) for process in started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert first[0] == second[0] == [0.25, 0.75, 0.0]
    assert (first[1], second[1]) == ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    assert first[2:4] == second[2:4]
    assert "give sync_usage=True" in first[4]


def test_an_example_without_batch_axes_counts_as_one():
    """All statistics of [dim] are those of [1, dim], of [time, dim] those of [1, time, dim]."""
    token = torch.randn(8, generator=seeded(3))
    for settings in ({}, {"estimator": None, "train_mode": "topk"}, {"capacity": 1, "k": 2}):
        router = TopKRouter(8, **{"num_experts": 4, "k": 1, **settings})
        single, row = router(token, generator=seeded()), router(token[None], generator=seeded())
        for ours, theirs in zip(single, row, strict=True):
            assert torch.allclose(ours, theirs[0] if theirs.ndim > ours.ndim else theirs)
        assert single.load_balancing_loss.item() < 4
        (found,) = torch.autograd.grad(single.load_balancing_loss, router.projection.weight)
        assert found.abs().max() > 1e-3
    rows = torch.randn(6, 8, generator=seeded(4))
    for module in (GumbelVectorQuantizer(8, 5, vq_dim=8), Wav2Vec2GumbelVectorQuantizer(CODES), VectorQuantizer(8, 5)):
        for training in (True, False):
            module.train(training)
            module.load_state_dict(before := {key: value.clone() for key, value in module.state_dict().items()})
            found = module(rows, generator=seeded())
            module.load_state_dict(before)
            wanted = module(rows[None], generator=seeded())
            pairs = zip(*((x.values() if isinstance(x, dict) else x) for x in (found, wanted)), strict=True)
            for ours, theirs in pairs:
                if isinstance(ours, torch.Tensor):
                    assert torch.allclose(ours, theirs[0] if theirs.ndim > ours.ndim else theirs, atol=1e-6)
    last = GumbelVectorQuantizer(8, 5, vq_dim=8, time_first=False)
    assert last(rows.T)["x"].shape == (8, 6)
    usage = [CategoricalBottleneck(5, train_mode="mean") for _ in range(2)]
    usage[0](LOGITS[0])
    usage[1](LOGITS[:1])
    assert torch.equal(usage[0].usage, usage[1].usage)


def test_empty_batches_leave_statistics_finite():
    bottleneck, quantizer = CategoricalBottleneck(5), VectorQuantizer(8, 5)
    bottleneck(torch.zeros(0, 5))
    assert quantizer(torch.zeros(0, 8)).commitment_loss == 0
    assert bottleneck.num_batches == quantizer.num_batches == 0
    routing = TopKRouter(8, num_experts=4, k=2)(torch.zeros(0, 8))
    assert routing.load_balancing_loss == routing.z_loss == 0
    found = GumbelVectorQuantizer(8, 5, vq_dim=8)(torch.zeros(2, 0, 8))
    assert found["prob_perplexity"] == found["code_perplexity"] == 2
