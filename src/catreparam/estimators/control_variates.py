"""Unbiased estimators with a relaxed control variate: REBAR, RELAX, and ReDGE made unbiased."""

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from catreparam.categorical import (
    Rows,
    conditional_gumbel,
    covariance_product,
    draw_exponential_like,
    draw_normal_like,
    draw_one_hot,
    finite,
    from_top,
    softmax_at,
    tangent,
    to_rows,
)
from catreparam.estimators.facts import Range, estimator
from catreparam.estimators.joint import (
    Loss,
    Objective,
    add_gradient,
    evaluate,
    joint_log_prob,
    leave_one_out,
    over_variables,
    relaxed_gradient,
    sum_variables,
)
from catreparam.kernels.naive.chain import denoise
from catreparam.kernels.naive.exact_law import transport_tangent
from catreparam.noise_schedule import make_schedule
from catreparam.pending import waits
from catreparam.validation import (
    check_count,
    check_number,
    has_values,
    inside_transform,
    is_exporting,
    is_recorded,
    is_stand_in,
)

NO_TRACE = "differentiates inside its forward pass. Use `rloo`, or trace under `torch.no_grad()`"

MOST_ETA = 1e6  # of either sign: control variates of this weight are noise, and far larger ones overflow


@estimator(
    "Score function and exact",
    search={"temperature": Range(0.1, 2.0, 0.5, log=True), "eta": Range(0.0, 1.5, 1.0)},
    unsupported={"jit.trace": NO_TRACE},
    tuned=False,
)
def rebar(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    temperature: float = 0.5,
    eta: float = 1.0,
    num_samples: int = 1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with REINFORCE whose control variate is eta times f at a Gumbel-Softmax sample.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    By:        [f(x) - eta f(s~)] grad log p(x) + eta grad f(s) - eta grad f(s~), s and s~ relaxed samples at
               `temperature` with free and with conditional noise. Several samples: leave-one-out baselines too.
    Bias:      none, for any f defined inside the simplex.
    Cost:      per sample 3 evaluations of f, 2 of its gradient.
    Raises:    ValueError unless temperature > 0 and num_samples >= 1; TypeError or ValueError for bad input.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> rebar(lambda x: x[..., 0], logits, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    Reference: Tucker et al. 2017, https://arxiv.org/abs/1703.07370.
    """
    check_count("num_samples", num_samples)
    temperature = check_number("temperature", temperature, above=0.0)
    eta = check_number("eta", eta, least=-MOST_ETA, most=MOST_ETA)
    rows = to_rows(logits, mask, generator=generator)
    terms = [_rebar_terms(objective, logits, rows, temperature, eta, generator) for _ in range(num_samples)]
    return combine(terms)


def _rebar_terms(
    objective: Objective, logits: Tensor, rows: Rows, temperature: float, eta: float, generator: Generator | None
) -> tuple[Loss, Loss, Loss, Loss]:
    x, free, conditional = draw_relaxed_pair(rows, generator)
    loss = evaluate(objective, x.to(logits.dtype))
    relaxed = [softmax_at(perturbed, temperature) for perturbed in (free, conditional)]
    (_, slope), (control, slope_given) = (relaxed_gradient(objective, s.to(logits.dtype)) for s in relaxed)
    path = eta * (slope * relaxed[0] - slope_given * relaxed[1]).sum(-1)
    return loss, eta * control, joint_log_prob(rows, x, loss), sum_variables(path, loss)


def draw_relaxed_pair(rows: Rows, generator: Generator | None) -> tuple[Rows, Rows, Rows]:
    """A hard sample x, the perturbed log-probabilities whose argmax it is, and a second draw of them given x.

    Both perturbed tensors are differentiable in the logits at fixed noise.
    """
    log_probs = torch.log_softmax(rows, -1)
    free = log_probs - draw_exponential_like(rows, generator).log()
    x = (free.detach() == free.detach().amax(-1, keepdim=True)).to(rows.dtype)
    return x, free, conditional_gumbel(log_probs, x, draw_exponential_like(rows, generator))


def combine(terms: list[tuple[Loss, Loss, Loss, Loss]]) -> Loss:
    """The mean over samples of loss, with gradient (loss - control) grad log_prob + grad path.

    With two samples or more the leave-one-out mean of loss - control is subtracted from the coefficient.
    """
    losses, controls, log_probs, paths = (torch.stack(part) for part in zip(*terms, strict=True))
    residual = (losses - controls).detach()
    if len(terms) > 1:
        residual = residual - leave_one_out(residual)
    return add_gradient(losses, residual * log_probs + paths).mean(0)


@estimator(
    "Through the diffusion",
    search={"t1": Range(0.3, 0.95, 0.5), "eta": Range(0.0, 1.5, 1.0)},
    unsupported={"jit.trace": NO_TRACE},
    tuned=False,
)
def unbiased_redge(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    t1: float = 0.5,
    eta: float = 1.0,
    num_samples: int = 1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with REINFORCE whose control variate is eta times f at ReDGE's relaxed sample.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    By:        [f(x) - c(x_soft)] grad log p(x) + the gradient of c(x_soft) along the exact transport of z, where c =
               eta f, z ~ N(lambda_1 x, I) and x_soft = softmax(logits + lambda_1 z). The direct dependence of x_soft on
               the logits drops out, since z given x does not depend on them.
    Bias:      none, whatever t1, for any f defined inside the simplex.
    Cost:      per sample 2 evaluations of f, 1 of its gradient.
    Raises:    ValueError unless t1 lies in [1e-4, 1] and num_samples >= 1; TypeError or ValueError for bad input.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> unbiased_redge(lambda x: x[..., 0], logits, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    Source: this project; see `docs/estimators.md`.
    """
    check_count("num_samples", num_samples)
    eta = check_number("eta", eta, least=-MOST_ETA, most=MOST_ETA)
    lam = make_schedule("lambda", 1, check_number("t1", t1)).last
    rows = to_rows(logits, mask, generator=generator)
    terms = [_unbiased_redge_terms(objective, logits, rows, lam, eta, generator) for _ in range(num_samples)]
    return combine(terms)


def _unbiased_redge_terms(
    objective: Objective, logits: Tensor, rows: Rows, lam: float, eta: float, generator: Generator | None
) -> tuple[Loss, Loss, Loss, Loss]:
    x = draw_one_hot(torch.softmax(rows, -1), generator)
    z = lam * x + draw_normal_like(rows, generator)
    x_soft = denoise(z, rows.detach(), lam)
    loss = evaluate(objective, x.to(logits.dtype))
    control, slope = relaxed_gradient(objective, x_soft.to(logits.dtype))
    change = lam * covariance_product(x_soft, transport_tangent(rows, z, tangent(rows), lam))
    path = eta * (slope * change).sum(-1)
    return loss, eta * control, joint_log_prob(rows, x, loss), sum_variables(path, loss)


class RelaxControlVariate(nn.Module):
    """c(z) = eta f(softmax(z / temperature)) + r(z), with learned eta, temperature and network r.

    z [*batch, *variables, num_classes] are perturbed log-probabilities.

    Parameters:
        num_inputs: variables times classes of one loss: the inputs of the network r, which starts at zero. None: r is
            absent, and RELAX starts as REBAR.
        hidden_size: width of the network, which is a small tanh network.
        temperature: where the learned temperature starts.
        eta: where the learned weight eta starts.
    """

    def __init__(
        self, num_inputs: int | None = None, hidden_size: int = 32, temperature: float = 0.5, eta: float = 1.0
    ):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.full((), check_number("temperature", temperature, above=0.0)).log())
        self.eta = nn.Parameter(torch.full((), check_number("eta", eta, least=-MOST_ETA, most=MOST_ETA)))
        self.network = None
        if num_inputs is not None:
            check_count("num_inputs", num_inputs)
            last = nn.Linear(hidden_size, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.network = nn.Sequential(nn.Linear(num_inputs, hidden_size), nn.Tanh(), last)

    def forward(self, objective: Objective, z: Tensor, dtype: torch.dtype) -> Loss:
        """The control variate's value per loss; `dtype` is that of the objective's input."""
        tempered = finite(from_top(z)) / self.log_temperature.exp()
        x_soft = torch.softmax(tempered.masked_fill(z == -torch.inf, -torch.inf), -1)
        loss = evaluate(objective, x_soft.to(dtype))
        value = self.eta * loss
        if self.network is not None:
            value = value + self.network(finite(z).flatten(loss.ndim).to(self.eta.dtype)).squeeze(-1)
        return value


@estimator(
    "Score function and exact",
    owned={"control_variate": RelaxControlVariate},
    unsupported={
        "compile": "differentiates inside its forward pass; without fullgraph it runs uncompiled. Use `rebar`",
        "vmap": "differentiates inside its forward pass. Use `rebar`, or run it outside the transform",
        "func.grad": "differentiates inside its forward pass. Use `rebar`, or run it outside the transform",
        "jit.trace": NO_TRACE,
        "make_fx": "differentiates inside its forward pass. Use `rebar`",
    },
    tuned=False,
)
def relax(
    objective: Objective,
    logits: Float[Tensor, "*batch num_classes"],
    *,
    control_variate: RelaxControlVariate | None = None,
    num_samples: int = 1,
    mask: Bool[Tensor, "..."] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*losses"]:
    """E[objective(x)] with REINFORCE and a control variate that learns to lower the variance.

    Estimates: grad E[f(x)], x ~ Categorical(softmax(logits)), all variables of a loss jointly.
    By:        [f(x) - c(z~)] grad log p(x) + grad c(z) - grad c(z~). The backward pass gives the parameters of
               `control_variate` the gradient of the squared gradient: hand them to an optimiser of their own.
    Bias:      none, for any f defined inside the simplex, whatever the control variate has learned.
    Cost:      per sample 3 evaluations of f, 2 of its gradient, one double backward.
    Raises:    ValueError for num_samples < 1; TypeError or ValueError for bad input; RuntimeError inside torch.func
               transforms.

    >>> logits = torch.zeros(4, 3, requires_grad=True)
    >>> relax(lambda x: x[..., 0], logits, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4])

    Reference: Grathwohl et al. 2018, https://arxiv.org/abs/1711.00123.
    """
    check_count("num_samples", num_samples)
    if inside_transform() or (torch.is_grad_enabled() and (is_recorded() or is_exporting())):
        raise RuntimeError(
            "relax differentiates inside its forward pass and cannot run inside torch.func transforms, torch.vmap, "
            "torch.jit.trace, torch.export or make_fx; call it outside, or use rebar"
        )
    rows = to_rows(logits, mask, generator=generator)
    if control_variate is None or is_stand_in(logits):  # of parameters that such logits do not meet
        with logits.device:
            control_variate = RelaxControlVariate()
    losses = [_relax_once(objective, logits, rows, mask, control_variate, generator) for _ in range(num_samples)]
    return torch.stack(losses).mean(0)


def _relax_once(
    objective: Objective,
    logits: Tensor,
    checked: Tensor,
    mask: Tensor | None,
    control_variate: RelaxControlVariate,
    generator: Generator | None,
) -> Loss:
    if not torch.is_grad_enabled():
        return evaluate(objective, draw_relaxed_pair(checked, generator)[0].to(logits.dtype))
    leaf = logits.detach().clone().requires_grad_()
    rows = to_rows(leaf, mask)
    x, free, conditional = draw_relaxed_pair(rows, generator)
    control, control_given = (control_variate(objective, z, logits.dtype) for z in (free, conditional))
    (path,) = torch.autograd.grad((control - control_given).sum(), leaf, create_graph=True)
    loss = evaluate(objective, x.to(logits.dtype))
    score = (x - torch.softmax(rows, -1)).detach()
    gradient = over_variables(loss.detach() - control_given, score) * score + path
    parameters = [p for p in control_variate.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(gradient.square().sum(), parameters, allow_unused=True) if parameters else ()
    learned = [(p, g) for p, g in zip(parameters, wanted, strict=True) if g is not None]
    if waits(loss.device):  # nothing is learned from what is not finite: their optimiser would keep it
        learned = [(p, torch.where(g.isfinite().all(), g, 0.0)) for p, g in learned]
    elif has_values(loss) and not all(bool(g.isfinite().all()) for _, g in learned):
        warnings.warn("the control variate of relax learns nothing from a gradient that is not finite", stacklevel=3)
        learned = []
    loss = add_gradient(loss, sum_variables((gradient.detach() * tangent(checked)).sum(-1), loss))
    if not learned:
        return loss
    learning = torch.stack([(p * g).sum() for p, g in learned]).sum()
    return add_gradient(loss, learning.to(loss.device) / max(loss.numel(), 1))
