"""One step of a VAE on 101 images per estimator, alone or in a team; saves the gradients of the first process."""

import sys

import torch
from safetensors.torch import save_file

from catreparam.data import load_dataset
from catreparam.experiments.runs.estimator_specs import build_estimator
from catreparam.experiments.vae.team import join_team
from catreparam.experiments.vae.training import new_state, train_epoch

SPECS = ("straight_through", "redge:num_steps=3", "exact_redge:num_noises=2,second_order_weight=1.0")


def gradients(team):
    """Gradients by estimator and parameter, and the loss, after one step on a batch of 101."""
    images, found = load_dataset("digits8").train[:101], {}
    for spec in SPECS:
        estimator = build_estimator(spec)
        sizes = {"num_latents": 4, "num_classes": 3, "hidden_sizes": (16,), "lr": 1e-3, "seed": 0, "device": "cpu"}
        state = new_state((8, 8), estimator=estimator, **sizes)
        stats = train_epoch(state, images, binarisation="dynamic", batch_size=101, num_samples=1, team=team)
        found |= {f"{spec} {name}": p.grad.clone() for name, p in state.model.named_parameters()}
        found[f"{spec} loss"] = torch.tensor(stats.loss)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    team = join_team("cpu")
    found = gradients(team)
    if team.rank == 0:
        save_file(found, sys.argv[1])
    torch.distributed.destroy_process_group()
