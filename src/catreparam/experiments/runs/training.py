"""Training that survives a kill: what changes while a network trains, as named tensors in a checkpoint and back."""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from catreparam.estimators import Estimator
from catreparam.experiments.runs.estimator_specs import estimator_state, restore_estimator
from catreparam.experiments.runs.folder import Record, RunFolder

# Weights, Adam's moments, random numbers, what an estimator has learned, other tensors by name.
Part = nn.Module | Optimizer | Generator | Estimator | dict[str, Tensor]


class Diverged(ValueError):
    """The loss or the logits stopped being finite."""


def to_tensors(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Every part under its name, ready for `RunFolder.save_checkpoint`.

    >>> to_tensors({"model": nn.Linear(1, 1), "generator.batches": Generator()}).keys()
    dict_keys(['model.weight', 'model.bias', 'generator.batches'])
    """
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, Generator):
            tensors[name] = part.get_state()
        else:
            tensors |= {f"{name}.{key}": tensor for key, tensor in _tensors_of(part).items()}
    return tensors


def load_tensors(parts: Mapping[str, Part], tensors: Mapping[str, Tensor]) -> None:
    """Undoes `to_tensors`: puts the tensors into fresh parts of the same kind. Other parts' tensors are passed over."""
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        if isinstance(part, Generator):
            part.set_state(tensors[name])
        elif isinstance(part, nn.Module):
            part.load_state_dict(own)
        elif isinstance(part, Optimizer):
            part.load_state_dict({"state": _moments(own), "param_groups": part.state_dict()["param_groups"]})
        elif isinstance(part, Estimator):
            restore_estimator(part, own)
        else:
            part.update(own)


def resume(
    folder: RunFolder,
    name: str,
    parts: Mapping[str, Part],
    *,
    unit: str,
    owns: Callable[[Record], bool] = lambda record: True,
    usable: Callable[[int, list[Record]], bool] = lambda done, records: True,
    agree: Callable[[Callable[[], int]], int] = lambda decide: decide(),
) -> int:
    """Loads the checkpoint `name`, if any, drops metrics from after it, and returns how much is done, in `unit`s.

    `unit` is what the facts of the checkpoint and the metrics count: "step", "epoch". `owns` tells the network's own
    lines of the metrics. A checkpoint that is not `usable`, given its count and those lines, is passed over: 0.
    Processes that train together `agree` on the count of the first one.
    """

    def drop_later_metrics() -> int:
        done = folder.checkpoint_count(name, unit) or 0
        with folder.metrics_lock:  # other workers append meanwhile
            records = folder.read_metrics()
            if not usable(done, [record for record in records if owns(record)]):
                done = 0
            kept = [record for record in records if not owns(record) or record[unit] <= done]
            if len(kept) < len(records):
                folder.replace_metrics(kept)
        return done

    done = agree(drop_later_metrics)
    if done:
        load_parts(folder, name, parts)
    return done


def load_parts(folder: RunFolder, name: str, parts: Mapping[str, Part]) -> bool:
    """Puts the tensors of a checkpoint into its parts; whether there was one. Raises RunFolderError if they misfit."""
    checkpoint = folder.load_checkpoint(name)
    if checkpoint is None:
        return False
    try:
        load_tensors(parts, checkpoint[0])
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise folder.damaged(name, error) from error
    return True


def _tensors_of(part: nn.Module | Optimizer | Estimator | dict[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(part, nn.Module):
        return part.state_dict()
    if isinstance(part, Optimizer):
        return {
            f"{index}.{key}": torch.as_tensor(value)
            for index, values in part.state_dict()["state"].items()
            for key, value in values.items()
        }
    return estimator_state(part) if isinstance(part, Estimator) else part


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    return moments
