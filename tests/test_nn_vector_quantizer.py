"""The vector quantisers against Hugging Face's module, against fairseq's formulas, and with other estimators."""

import copy
import importlib
import math
import pickle

import pytest
import torch
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2 import modeling_wav2vec2

from catreparam import make_estimator
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


@pytest.mark.parametrize("depth", [1, 2])
def test_checkpoints_of_fairseqs_defaults_load(depth):
    """Its weight_proj_factor is 1; deep projections have torch's own initial laws, a single layer normal weights."""
    module = GumbelVectorQuantizer(64, 20, (2.0, 0.5, 0.9), 2, False, 16, True, weight_proj_depth=depth)
    shapes = {"vars": (1, 40, 8)}
    if depth == 1:
        shapes |= {"weight_proj.weight": (40, 64), "weight_proj.bias": (40,)}
        assert not module.weight_proj.bias.any()
    else:
        shapes |= {"weight_proj.0.0.weight": (64, 64), "weight_proj.0.0.bias": (64,)}
        shapes |= {"weight_proj.1.weight": (40, 64), "weight_proj.1.bias": (40,)}
        assert module.weight_proj[1].weight.abs().max() <= 1 / 8  # uniform in +-1 / sqrt(64)
        assert module.weight_proj[1].bias.any()
    module.load_state_dict({name: torch.full(shape, 0.1) for name, shape in shapes.items()})
    assert module(torch.zeros(2, 3, 64))["x"].shape == (2, 3, 16)


@pytest.mark.parametrize("temp", ["(2.0, 0.5, 0.9)", "[2.0,0.5,0.9]", [2.0, 0.5, 0.9]])
def test_temp_may_be_a_string(temp):
    module = fairseqs(temp=temp)
    module.set_num_updates(2)
    assert module.curr_temp == pytest.approx(2.0 * 0.81)
    assert fairseqs(temp="(2, 0.5, 1)").curr_temp == 2


@pytest.mark.parametrize("combine", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_joined_codebook_is_fairseqs(combine, groups):
    module = fairseqs(groups=groups, combine_groups=combine, num_vars=4)
    indices, book = module.get_codebook_indices(), module.codebook()
    assert (indices.shape, book.shape) == ((4**groups * groups,), (4**groups, 6))
    assert (indices.dtype, int(indices.max())) == (torch.int64, 3 if combine else 4 * groups - 1)
    x, targets = module.forward_idx(HIDDEN, generator=seeded())
    index = module.to_codebook_index(targets)
    assert index.shape == (3, 7)
    assert torch.allclose(book[index], x)
    drawn = module.sample_from_codebook(2, 3, generator=seeded())
    assert drawn.shape == (2, 3, 6)
    assert bool((drawn.unsqueeze(-2) == book).all(-1).any(-1).all())
    with pytest.raises(ValueError, match=f"n must be less than the {4**groups} joined codewords"):
        module.sample_from_codebook(1, 4**groups)


@pytest.mark.parametrize("name", ["gumbel_softmax", "gumbel_rao", "gapped_straight_through"])
def test_made_relaxations_follow_the_temperature_unless_they_have_their_own(name):
    for make, own in ((make_estimator(name), False), (make_estimator(name, temperature=0.3), True)):
        found = []
        for temp in (0.3, 1.7):
            module = fairseqs(temp=ConstantSchedule(temp), estimator=make)
            module.load_state_dict(
                {key: torch.linspace(-1, 1, v.numel()).view(v.shape) for key, v in module.state_dict().items()}
            )
            inputs = HIDDEN.clone().requires_grad_()
            module(inputs, generator=seeded())["x"].square().sum().backward()
            found.append(inputs.grad)
        assert torch.equal(*found) == own


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
        ({"temp": (2.0, 0.5)}, "temp must be .start, end, factor a step. or a Schedule, got .2.0, 0.5."),
        ({"temp": "warm"}, "temp must be .*, got 'warm'"),
        ({"weight_proj_factor": 0}, "weight_proj_factor must be at least 1"),
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


def test_the_perplexity_has_a_finite_value_and_gradient_when_codes_are_unused():
    """Groups count at least 1 each; a code of probability exactly 0 adds nothing and gets nothing."""
    module = Wav2Vec2GumbelVectorQuantizer(CONFIG)
    hidden = (300 * HIDDEN).requires_grad_()  # probabilities underflow
    perplexity = module(hidden)[1]
    gradients = torch.autograd.grad(perplexity, [hidden, *module.weight_proj.parameters()])
    assert 2 <= perplexity <= 10
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    module(hidden[:1, :1])[1].backward()  # one frame
    assert bool(module.weight_proj.weight.grad.isfinite().all())
    nothing = torch.zeros_like(MASK)
    for training in (True, False):
        perplexity = module.train(training)(hidden, nothing)[1]
        assert perplexity.item() == 2
    assert not torch.autograd.grad(module.train()(hidden, nothing)[1], hidden)[0].any()


@pytest.mark.parametrize("mask", [MASK.tolist(), MASK.to(torch.uint8), MASK[:, :3]], ids=["list", "uint8", "shape"])
def test_bad_masks_are_named(mask):
    with pytest.raises((TypeError, ValueError), match="mask_time_indices must be"):
        Wav2Vec2GumbelVectorQuantizer(CONFIG)(HIDDEN, mask)


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_conformer", "unispeech", "unispeech_sat", "wavlm"])
@pytest.mark.parametrize("training", [True, False])
def test_the_quantisers_of_all_relatives_have_a_twin(name, training, monkeypatch):
    monkeypatch.setattr(dispatch, "_wanted", "naive")
    modeling = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    kind = next(kind for key, kind in vars(modeling).items() if key.endswith("GumbelVectorQuantizer"))
    config = next(vars(modeling)[key] for key in vars(modeling) if key.endswith("Config") and key != "PreTrainedConfig")
    sizes = {"hidden_size": 12, "num_attention_heads": 2, "num_codevectors_per_group": 5, "codevector_dim": 6, **SMALL}
    theirs = kind(made := config(**sizes)).train(training)
    torch.nn.init.uniform_(theirs.codevectors)
    ours = Wav2Vec2GumbelVectorQuantizer(made).train(training)
    ours.load_state_dict(theirs.state_dict())
    hidden = torch.randn(3, 7, theirs.weight_proj.in_features, generator=seeded(1))
    found = []
    for module in (ours, theirs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found.append(module(hidden))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))
