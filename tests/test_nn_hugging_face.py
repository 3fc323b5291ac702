"""Mixtral and Switch with our routers: theirs to the bit where nothing is asked for, trained by any estimator else."""

import copy

import pytest
import torch
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

hugging_face = pytest.importorskip("catreparam.nn.hugging_face", exc_type=ImportError)

TOKENS = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(1))
MIXTRAL = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
MIXTRAL |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
SWITCH = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 2}
SWITCH |= {"num_heads": 2, "num_experts": 4, "expert_capacity": 2, "dropout_rate": 0.0, "router_jitter_noise": 0.0}
SWITCH |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "decoder_start_token_id": 0}
MODELS = {
    "Mixtral": lambda: MixtralForCausalLM(MixtralConfig(**MIXTRAL)),
    "Switch": lambda: SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**SWITCH)),
}


@pytest.fixture(params=MODELS)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[request.param]()


def values_and_gradients(model):
    model.zero_grad()
    out = model(input_ids=TOKENS, labels=TOKENS, output_router_logits=True)
    out.loss.backward()
    auxiliary = [out[key] for key in ("aux_loss", "encoder_aux_loss", "encoder_z_loss") if key in out]
    logits = [*(out.get("router_logits") or ()), *(out.get("encoder_router_logits") or ())]
    assert auxiliary
    assert logits
    gradients = [torch.zeros(()) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [out.loss, out.logits, *auxiliary, *logits, *gradients]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_usual_router_is_theirs_to_the_bit(model, training, dtype):
    theirs = model.to(dtype).train(training)
    ours = copy.deepcopy(theirs)
    parameters = dict(ours.named_parameters())
    assert hugging_face.replace_routers(ours, estimator=None, train_mode="topk") == 2
    assert all(parameter is parameters[name] for name, parameter in ours.named_parameters())
    for a, b in zip(values_and_gradients(theirs), values_and_gradients(ours), strict=True):
        assert torch.equal(a, b)


def test_every_mode_trains_the_routers(model):
    for settings in ({}, {"estimator": "redge"}, {"estimator": "straight_through", "train_mode": "topk"}):
        hugging_face.replace_routers(model.train(), **settings)
        values_and_gradients(model)
        routers = [m for m in model.modules() if isinstance(m, hugging_face.RoutesTokens)]
        weights = [parameter.grad for module in routers for parameter in module.parameters()]
        assert len(weights) == 2
        assert all(bool(weight.isfinite().all()) and weight.abs().max() > 0 for weight in weights)


def test_capacities_drop_tokens_and_routers_can_be_made_from_a_config(model):
    hugging_face.replace_routers(model.eval(), capacity_factor=0.25)
    assert bool(values_and_gradients(model)[1].isfinite().all())
    router = hugging_face.SwitchRouter(SwitchTransformersConfig(**SWITCH), estimator=None, train_mode="topk")
    choice, weight, logits = router(torch.ones(3, 5, 16))
    assert (choice.shape, weight.shape, logits.shape) == ((3, 5, 4), (3, 5, 1), (3, 5, 4))
    assert choice.sum((1, 2)).tolist() == [2, 2, 2]  # equal tokens want the same expert: its capacity is 2


def test_a_model_without_routers_is_named():
    with pytest.raises(ValueError, match="Linear holds no Mixtral or Switch router"):
        hugging_face.replace_routers(torch.nn.Linear(2, 2))


def test_errors_name_the_router_that_was_made():
    for config, router in (
        (MixtralConfig(**MIXTRAL), "MixtralRouter"),
        (SwitchTransformersConfig(**SWITCH), "SwitchRouter"),
    ):
        with pytest.raises(TypeError, match=f"^{router} has no t1; it belongs to the estimator"):
            getattr(hugging_face, router)(config, t1=0.5)
