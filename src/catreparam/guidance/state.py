"""The state of a guided generation between two rounds, and the file that lets a killed one go on."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from catreparam.extras import install
from catreparam.guidance.optimize import Optimization
from catreparam.guidance.trace import Evaluations, Trace
from catreparam.masked_diffusion import ReverseProcess
from catreparam.report import write_atomically


@dataclass(frozen=True)
class GuidedState:
    """All that the next round needs (beside the generator and what the estimator has learned)."""

    round_index: int
    tokens: Tensor
    tilt: Tensor | None
    kl: Tensor
    prior_log_prob: Tensor
    trace: Trace
    evaluations: Evaluations
    vocab_size: int
    stopped: bool = False

    @staticmethod
    def start(tokens: Tensor) -> "GuidedState":
        """Before the first round."""
        zeros = torch.zeros(tokens.shape[0], device=tokens.device)
        return GuidedState(0, tokens.clone(), None, zeros, zeros.clone(), Trace(), Evaluations(), 0)


# Fields of the state that a checkpoint holds as they are: tensors, and metadata.
TENSORS = ("tokens", "kl", "prior_log_prob")
FACTS = ("round_index", "vocab_size", "stopped")


@dataclass(frozen=True)
class Checkpoint:
    """One safetensors file: state, generator, what the estimator has learned; settings in its metadata."""

    path: Path
    made: Mapping[str, Any]
    generator: Generator
    estimator: object

    @staticmethod
    def of(path: str | Path, made: Mapping[str, Any], generator: Generator | None, estimator: object) -> "Checkpoint":
        """A checkpoint. Raises ValueError without a generator, ImportError without safetensors."""
        if generator is None:
            raise ValueError("checkpoint needs generator=torch.Generator(...): the global generator cannot be resumed")
        _safetensors()
        return Checkpoint(Path(path), made, generator, estimator)

    def save(self, state: GuidedState) -> None:
        """Replaces the file, atomically."""
        tensors = {key: getattr(state, key) for key in TENSORS} | {"generator": self.generator.get_state()}
        if state.tilt is not None:
            tensors["tilt"] = state.tilt
        tensors |= {f"estimator.{key}": value for key, value in learned_state(self.estimator).items()}
        facts = {
            "settings": fingerprint(self.made),
            "made": dict(self.made),
            **{key: getattr(state, key) for key in FACTS},
        }
        facts |= {"trace": state.trace.rows, "evaluations": dataclasses.astuple(state.evaluations)}
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, _safetensors().torch.save(plain, {"guidance": json.dumps(facts)}))

    def load(self, tokens: Tensor) -> GuidedState | None:
        """The saved state, with generator and estimator put back; None if there is no file yet."""
        if not self.path.exists():
            return None
        try:
            with _safetensors().safe_open(self.path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["guidance"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            others = self._differences(facts)
            if not others:
                state = GuidedState(
                    tilt=tensors["tilt"].to(tokens.device) if "tilt" in tensors else None,
                    trace=Trace(facts["trace"]),
                    evaluations=Evaluations(*facts["evaluations"]),
                    **{key: tensors[key].to(tokens.device) for key in TENSORS},
                    **{key: facts[key] for key in FACTS},
                )
                self.generator.set_state(tensors["generator"])
                restore_learned(self.estimator, tensors)
                return state
        except (_safetensors().SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"checkpoint {self.path} is damaged ({error}); delete it to start over") from error
        raise ValueError(
            f"{self.path} belongs to a generation with other {', '.join(others)}; delete it or choose another file"
        )

    def _differences(self, facts: Mapping[str, Any]) -> list[str]:
        """Names of what the file was made with and this call is not."""
        made = facts.get("made")
        if made is None:  # an older file
            return [] if facts["settings"] == fingerprint(self.made) else ["tokens, settings or estimator"]
        own = json.loads(json.dumps(self.made))
        return [name for name in {**made, **own} if made.get(name) != own.get(name)]


def made_with(
    tokens: Tensor, process: ReverseProcess, settings: Optimization, commit: str, reward: object
) -> dict[str, Any]:
    """All that decides the result, by name, as far as it can be read off; functions and models count by name."""
    unmasking, numbers = process.unmasking, {**vars(settings), "num_samples": settings.num_samples or 1}
    named: dict[str, object] = {"tokens": tokens, "estimator": numbers.pop("estimator")}
    named |= {key: getattr(unmasking, key) for key in ("num_rounds", "schedule", "remask_sigma", "order")}
    named |= {"denoiser": process.denoiser, "temperature": process.temperature, **numbers, "commit": commit}
    blocks = {"block_size": unmasking.block_size, "threshold": unmasking.threshold}
    ends = {"end_token": unmasking.end_token, "pad_token": unmasking.pad_token}
    ends["corruption"] = getattr(process.denoiser, "corruption", None)
    for later in (blocks, ends):  # older files lack them
        named |= later if any(value is not None for value in later.values()) else {}
    for key in sorted(process.condition):
        named |= {f"condition {key}": key, f"condition {key}'s value": process.condition[key]}
    seed = None if process.generator is None else process.generator.initial_seed()
    named |= {"reward": reward, "generator's seed": seed}
    return {name: _readable(value) for name, value in named.items()}


def fingerprint(made: Mapping[str, Any]) -> str:
    """A digest of the settings, without what files of earlier versions did not know of."""
    parts = [value for name, value in made.items() if name not in ("reward", "generator's seed")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _readable(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        content = plain.reshape(-1).view(torch.uint8) if plain.numel() else plain
        return [str(value.dtype), list(value.shape), hashlib.sha256(content.numpy().tobytes()).hexdigest()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    name = getattr(value, "__qualname__", None) or getattr(value, "name", None) or type(value).__qualname__
    keywords = getattr(value, "keywords", {})  # a made estimator: numbers and words, not what it has learned
    plain = {key: item for key, item in keywords.items() if isinstance(item, (bool, int, float, str, type(None)))}
    return [str(name), plain]


def learned_state(estimator: object) -> dict[str, Tensor]:
    """What a made estimator carries from step to step: modules and dataclasses of numbers among its hyperparameters."""
    state: dict[str, Tensor] = {}
    for key, value in _stateful(estimator).items():
        if isinstance(value, nn.Module):
            state |= {f"{key}.{name}": tensor for name, tensor in value.state_dict().items()}
        else:
            state[key] = torch.tensor(dataclasses.astuple(value), dtype=torch.float64)
    return state


def restore_learned(estimator: object, tensors: Mapping[str, Tensor]) -> None:
    """Puts `learned_state` (keys with the prefix "estimator.") back."""
    for key, value in _stateful(estimator).items():
        prefix = f"estimator.{key}"
        if isinstance(value, nn.Module):
            own = {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
            value.load_state_dict(own)
        else:
            for entry, number in zip(dataclasses.fields(value), tensors[prefix].tolist(), strict=True):
                setattr(value, entry.name, number)


def _stateful(estimator: object) -> dict[str, Any]:
    keywords = getattr(estimator, "keywords", None) or {}
    return {
        key: value
        for key, value in keywords.items()
        if isinstance(value, nn.Module) or (dataclasses.is_dataclass(value) and not isinstance(value, type))
    }


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"checkpoints need safetensors; {install('guidance')}") from error
    return safetensors
