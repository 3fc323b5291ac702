"""Routers for the mixtures of experts of `transformers` (version 5 or later), with its parameters and outputs."""

from typing import Any

from torch import Generator, Tensor, nn

from catreparam.categorical import one_hot_like
from catreparam.nn.routing import RoutesTokens, jittered

try:
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router
except ImportError as error:
    raise ImportError("catreparam.nn.hugging_face needs: pip install 'transformers>=5'") from error

__all__ = ["MixtralRouter", "SwitchRouter", "replace_routers"]


class MixtralRouter(RoutesTokens, MixtralTopKRouter):
    """Mixtral's router, for any estimator; weights of the chosen experts are renormalised, as there.

    estimator=None with train_mode="topk" is their router, bit for bit.
    Returns logits [tokens, num_experts], weights and indices of the chosen experts [tokens, k], so that
    `output_router_logits=True` and the loss made of it work.

    Parameters:
        config: a MixtralConfig.
        routing: TopKRouter's keywords estimator, train_mode, eval_mode, gates, normalize, capacity, capacity_factor;
            capacities count all tokens of the batch.
    """

    def __init__(self, config: Any, **routing: Any) -> None:
        super().__init__(config)
        self.set_routing(**routing)

    def set_routing(self, **routing: Any) -> None:
        """Changes estimator, modes and gates. Raises as TopKRouter does."""
        self._set_routing(self.num_experts, self.top_k, **routing)

    def forward(self, hidden_states: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, weights and experts of tokens [..., hidden_dim], as the class says."""
        logits = nn.functional.linear(hidden_states.reshape(-1, self.hidden_dim), self.weight)
        routing = self._route(logits, generator=generator)
        return logits, routing.weights.gather(-1, routing.experts), routing.experts


class SwitchRouter(RoutesTokens, SwitchTransformersTop1Router):
    """Switch Transformers' router, for any estimator: one expert a token, weighed by its probability.

    estimator=None with train_mode="topk" is their router (whose jitter changes the tokens in place as
    well; this one's does not).
    Returns the one-hot choice [batch, tokens, num_experts], zero where the expert was full, weights [batch, tokens, 1]
    and logits, so that `output_router_logits=True` and the losses made of them work.

    Parameters:
        config: a SwitchTransformersConfig.
        routing: as for MixtralRouter; the capacity is the config's, a sequence, unless another is given, and normalize
            is False unless it is asked for.
    """

    def __init__(self, config: Any, **routing: Any) -> None:
        super().__init__(config)
        self.set_routing(**routing)

    def set_routing(self, **routing: Any) -> None:
        """Changes estimator, modes, gates and capacity. Raises as TopKRouter does."""
        default = {} if "capacity_factor" in routing else {"capacity": self.expert_capacity}
        self._set_routing(self.num_experts, 1, **{"normalize": False, **default, **routing})

    def forward(self, hidden_states: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Choice, weights and logits of tokens [batch, tokens, hidden_dim], as the class says."""
        tokens = hidden_states.to(self.dtype)  # float32, whatever the rest of the model is in
        if self.training and self.jitter_noise > 0:
            tokens = jittered(tokens, self.jitter_noise, generator)
        self.classifier = self.classifier.to(self.dtype)
        logits = self.classifier(tokens)
        routing = self._route(logits, generator=generator)
        choice = one_hot_like(routing.experts[..., 0], logits).long() * routing.kept
        return choice, routing.weights.gather(-1, routing.experts).to(hidden_states.dtype), logits


_OURS: dict[type[nn.Module], Any] = {
    MixtralTopKRouter: MixtralRouter,
    SwitchTransformersTop1Router: SwitchRouter,
    MixtralRouter: MixtralRouter,
    SwitchRouter: SwitchRouter,
}


def replace_routers(model: nn.Module, **routing: Any) -> int:
    """Makes every Mixtral or Switch router inside `model` one of ours, in place; returns how many there were.

    The parameters stay the same objects under the same names: optimisers, checkpoints and hooks do not notice. Raises
    ValueError if there is none, and as TopKRouter does.

    >>> from transformers import MixtralConfig
    >>> config = MixtralConfig(hidden_size=8, num_local_experts=4)
    >>> replace_routers(nn.Sequential(MixtralTopKRouter(config)), estimator="straight_through")
    1
    """
    found: list[Any] = [module for module in model.modules() if type(module) in _OURS]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no Mixtral or Switch router")
    for module in found:
        module.__class__ = _OURS[type(module)]
        module.set_routing(**routing)
    return len(found)
