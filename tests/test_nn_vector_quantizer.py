"""The vector quantisers against Hugging Face's module, against fairseq's formulas, and with other estimators."""

import copy
import math
import pickle

import pytest
import torch
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2 import modeling_wav2vec2

from catreparam.kernels import dispatch
from catreparam.nn import GumbelVectorQuantizer, Wav2Vec2GumbelVectorQuantizer
from catreparam.schedules import ConstantSchedule
from methods import REPARAMETERISED, seeded

SMALL = {"conv_dim": [8], "conv_stride": [2], "conv_kernel": [3]}
CONFIG = Wav2Vec2Config(num_codevector_groups=2, num_codevectors_per_group=5, codevector_dim=6, **SMALL)
HIDDEN = torch.randn(3, 7, 8, generator=seeded(1))
MASK = torch.rand(3, 7, generator=seeded(2)) < 0.6


def pair():
    theirs = modeling_wav2vec2.Wav2Vec2GumbelVectorQuantizer(CONFIG)
    torch.nn.init.uniform_(theirs.codevectors)
    ours = Wav2Vec2GumbelVectorQuantizer(CONFIG)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_it_is_hugging_faces_module_on_the_same_noise(training, mask, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")  # the naive path draws its noise as torch does
    found = []
    for module in pair():
        module.train(training)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            codevectors, perplexity = module(HIDDEN, mask)
            loss = codevectors.square().sum() + perplexity
            found.append(
                [codevectors, perplexity, *torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)]
            )
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_every_estimator_trains_it(name):
    for module in (Wav2Vec2GumbelVectorQuantizer(CONFIG, estimator=name), fairseqs(estimator=name)):
        out = module(HIDDEN)
        (out["x"] if isinstance(out, dict) else out[0]).square().sum().backward()
        assert all(bool(parameter.grad.isfinite().all()) for parameter in module.parameters())
        assert module.weight_proj.weight.grad.abs().max() > 0


def fairseqs(**settings) -> GumbelVectorQuantizer:
    return GumbelVectorQuantizer(**{"dim": 8, "num_vars": 5, "groups": 2, "vq_dim": 6, **settings})


@pytest.mark.parametrize("combine", [False, True])
def test_codewords_are_looked_up_and_concatenated(combine):
    module = fairseqs(combine_groups=combine)
    result = module(HIDDEN, produce_targets=True, generator=seeded())
    assert module.vars.shape == (1, 5 if combine else 10, 3)
    targets = result["targets"]
    assert targets.shape == (3, 7, 2)
    second = targets[..., 1] if combine else targets[..., 1] + 5
    wanted = torch.cat([module.vars[0, targets[..., 0]], module.vars[0, second]], -1)
    assert torch.allclose(result["x"], wanted)
    assert (result["num_vars"], result["temp"]) == (10, 2.0)


def test_time_may_come_last():
    first, last = fairseqs(), fairseqs(time_first=False)
    last.load_state_dict(first.state_dict())
    wanted = first(HIDDEN, generator=seeded())["x"]
    assert torch.equal(last(HIDDEN.transpose(1, 2), generator=seeded())["x"].transpose(1, 2), wanted)


def test_perplexities_count_the_codes_in_use():
    module = fairseqs()
    with torch.no_grad():
        module.weight_proj.weight.zero_()
    result = module(HIDDEN)
    assert result["prob_perplexity"].item() == pytest.approx(10, abs=1e-3)  # uniform probabilities in both groups
    assert result["code_perplexity"].item() == pytest.approx(2, abs=1e-3)  # one best code in each
    assert result["prob_perplexity"].requires_grad


def test_the_temperature_is_annealed_as_in_fairseq():
    module = fairseqs(temp=(2.0, 0.5, 0.9))
    for updates in (0, 1, 5, 100):
        module.set_num_updates(updates)
        assert module(HIDDEN)["temp"] == pytest.approx(max(2.0 * 0.9**updates, 0.5))
    assert fairseqs(temp=ConstantSchedule(0.7))(HIDDEN)["temp"] == 0.7


def test_eval_mode_takes_the_best_codewords():
    module = fairseqs().eval()
    result = module(HIDDEN, produce_targets=True)
    logits = module.weight_proj(HIDDEN).view(3, 7, 2, 5)
    assert torch.equal(result["targets"], logits.argmax(-1))
    assert torch.equal(result["x"], module(HIDDEN)["x"])


def test_soft_codes_mix_codewords_and_need_a_relaxation():
    codes = fairseqs(hard=False)(HIDDEN)["x"]
    assert codes.shape == (3, 7, 6)
    with pytest.raises(ValueError, match="hard=False needs a relaxation"):
        fairseqs(hard=False, estimator="reinmax")


def test_deep_projections_have_fairseqs_names():
    module = fairseqs(weight_proj_depth=3, weight_proj_factor=2)
    assert [name for name, _ in module.named_parameters()] == [
        "vars",
        *(f"weight_proj.{name}" for name in ("0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias", "2.weight", "2.bias")),
    ]
    assert module(HIDDEN)["x"].shape == (3, 7, 6)


def test_initial_laws_are_fairseqs():
    module = GumbelVectorQuantizer(dim=64, num_vars=320, groups=2, vq_dim=256, std=0.5)
    assert module.vars.std().item() == pytest.approx(0.5, rel=0.05)
    assert module.weight_proj.weight.std().item() == pytest.approx(1.0, rel=0.05)
    assert not module.weight_proj.bias.any()
    uniform = GumbelVectorQuantizer(dim=64, num_vars=320, groups=2, vq_dim=256).vars
    assert 0 <= uniform.min() < 0.01
    assert uniform.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)


def test_state_dict_goes_round_and_modules_copy_and_pickle():
    module, twin = fairseqs(), fairseqs()
    twin.load_state_dict(module.state_dict())
    for other in (twin, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(HIDDEN, generator=seeded())["x"], module(HIDDEN, generator=seeded())["x"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vq_dim": 7}, "vq_dim must be a multiple of groups=2, got 7"),
        ({"num_vars": 0}, "num_vars must be at least 1"),
        ({"temp": (2.0, 0.5, 1.1)}, "does not lead from"),
        ({"estimator": "rloo"}, "rloo needs the objective"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        fairseqs(**settings)


def test_a_config_whose_groups_do_not_divide_is_refused():
    config = Wav2Vec2Config(num_codevector_groups=4, codevector_dim=6, **SMALL)
    with pytest.raises(ValueError, match="codevector_dim must be a multiple of num_codevector_groups=4, got 6"):
        Wav2Vec2GumbelVectorQuantizer(config)
