"""Guidance where the right answer is known: a Markov chain tilted by a reward, all methods, as Markdown."""

import torch

from catreparam.guidance import aps, best_of_n, entrgi, guided_sample, smc, svdd
from catreparam.masked_diffusion import TableDenoiser

NUM_ROWS, LENGTH = 4_000, 5
PAIRS = torch.tensor([[0.0, 1.0, -0.5], [0.3, -1.0, 0.8], [0.9, 0.2, 0.1]])
ONE_BY_ONE = {"num_rounds": LENGTH, "order": "random"}  # one position a round: the sampler's law is the table's


def reward(x: torch.Tensor) -> torch.Tensor:
    """[B, L, 3] -> [B]: scores of neighbouring tokens."""
    return torch.einsum("bli,ij,blj->b", x[:, :-1], PAIRS, x[:, 1:])


def methods(prior: TableDenoiser, start: torch.Tensor, generator: torch.Generator) -> dict:
    """Name -> function that generates."""
    call = {**ONE_BY_ONE, "generator": generator}
    found = {"prior": lambda: best_of_n(prior, reward, start, num_candidates=1, **call)}
    for name in ("exact_redge", "reinmax", "straight_through", "rloo"):
        settings = {"estimator": name, "num_samples": 2, "num_steps": 10, "lr": 0.2, **call}
        found[f"guided, {name}"] = lambda settings=settings: guided_sample(prior, reward, start, **settings)
    return found | {
        "best_of_n, 20": lambda: best_of_n(prior, reward, start, num_candidates=20, **call),
        "svdd, 20, weight 1": lambda: svdd(prior, reward, start, num_candidates=20, reward_weight=1.0, **call),
        "svdd, 20, best": lambda: svdd(prior, reward, start, num_candidates=20, **call),
        "smc, 20, drawn": lambda: smc(prior, reward, start, num_particles=20, select="draw", **call),
        "smc, 20, best": lambda: smc(prior, reward, start, num_particles=20, **call),
        "aps": lambda: aps(prior, reward, start, codebook=torch.eye(3), **call),
        "entrgi": lambda: entrgi(prior, reward, start, **call),
    }


def main() -> None:
    initial, chain = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.1, 0.5]])
    prior = TableDenoiser.markov_chain(initial, chain, LENGTH)
    target, rewards = (
        prior.tilted(reward).log_probs.exp(),
        reward(torch.nn.functional.one_hot(prior.sequences, 3).float()),
    )
    print(f"Reward under the prior {float(prior.log_probs.exp() @ rewards.double()):.2f}, the tilted law ", end="")
    print(f"{float(target @ rewards.double()):.2f}, the best sequence {float(rewards.max()):.2f}; {NUM_ROWS} runs.\n")
    print("| method | reward | log p | distance to the tilted law | model, reward, gradient calls |")
    print("|---|---:|---:|---:|---:|")
    start = torch.full((NUM_ROWS, LENGTH), prior.mask_token)
    for name, generate in methods(prior, start, torch.Generator().manual_seed(0)).items():
        result = generate()
        law = torch.bincount(prior.index(result.tokens), minlength=len(target)) / NUM_ROWS
        cost = result.evaluations
        print(
            f"| {name} | {float(result.reward.mean()):.2f} | {float(result.prior_log_prob.mean()):.2f} "
            f"| {float((law - target).abs().sum() / 2):.2f} | {cost.model}, {cost.reward}, {cost.reward_gradient} |"
        )


if __name__ == "__main__":
    main()
