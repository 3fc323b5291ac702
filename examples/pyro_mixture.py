"""Pyro's SVI on a mixture of Gaussians: the same model and guide, three distributions for a point's component."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

from catreparam.distributions import ReparameterizedCategorical

NUM_POINTS, NUM_COMPONENTS, NUM_STEPS = 200, 6, 200


def make_data() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(NUM_COMPONENTS, 2, generator=generator)
    chosen = torch.randint(NUM_COMPONENTS, (NUM_POINTS,), generator=generator)
    return centres[chosen] + 0.7 * torch.randn(NUM_POINTS, 2, generator=generator)


def fit(data: torch.Tensor, make_component, seed: int) -> float:
    """Mean negative ELBO per point, KL exact, after training; only `make_component(logits)` differs."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    centres = data[torch.randperm(NUM_POINTS)[:NUM_COMPONENTS]].clone()  # random points to start from

    def model(data):
        locs = pyro.param("locs", centres)
        with pyro.plate("points", NUM_POINTS):
            z = pyro.sample("z", make_component(torch.zeros(NUM_COMPONENTS)))
            pyro.sample("x", dist.Normal(z @ locs, 0.7).to_event(1), obs=data)

    def guide(data):
        logits = pyro.param("logits", torch.zeros(NUM_POINTS, NUM_COMPONENTS))
        with pyro.plate("points", NUM_POINTS):
            pyro.sample("z", make_component(logits))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(NUM_STEPS):
        svi.step(data)
    logits, locs = pyro.param("logits").detach(), pyro.param("locs").detach()
    q, log_q = torch.softmax(logits, -1), torch.log_softmax(logits, -1)
    fits = dist.Normal(locs, 0.7).log_prob(data.unsqueeze(1)).sum(-1)  # [points, components]
    return float((q * (log_q + torch.tensor(float(NUM_COMPONENTS)).log() - fits)).sum(-1).mean())


def main() -> None:
    components = {
        "pyro OneHotCategorical (REINFORCE)": lambda logits: dist.OneHotCategorical(logits=logits),
        "pyro OneHotCategoricalStraightThrough": lambda logits: dist.OneHotCategoricalStraightThrough(logits=logits),
        "ReparameterizedCategorical, reinmax": lambda logits: ReparameterizedCategorical(logits=logits),
    }
    data = make_data()
    print("| component's distribution | negative ELBO per point, three seeds |\n|---|---:|")
    for name, make_component in components.items():
        print(f"| {name} | {', '.join(f'{fit(data, make_component, seed):.3f}' for seed in range(3))} |")


if __name__ == "__main__":
    main()
