"""A whole generation guided by a reward: optimise the logits in every round, draw, reveal."""

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from catreparam.arguments import hands_on
from catreparam.guidance.inference_mode import with_gradients
from catreparam.guidance.optimize import Optimization, OptimizedLogits, Schedule, optimize
from catreparam.guidance.problem import Problem
from catreparam.guidance.rewards import Reward, RewardError
from catreparam.guidance.state import Checkpoint, GuidedState, made_with
from catreparam.guidance.stopping import Annealed, EarlyStop, asks_to_stop
from catreparam.guidance.trace import Evaluations, Generation, Trace, reward_of
from catreparam.guidance.update import divergence
from catreparam.masked_diffusion import Condition, Denoiser, ReverseProcess, Unmasking
from catreparam.masked_diffusion.orders import Order
from catreparam.masked_diffusion.process import is_masked
from catreparam.validation import check_choice


@dataclass(frozen=True)
class RoundInfo:
    """What a callback sees after a round.

    Fields:
        round_index: which one, from 0.
        num_rounds: how many there are.
        tokens: [B, L], after the round; mask_token where nothing is revealed yet.
        clean: [B, L], what was drawn for every position, revealed or not.
        optimized: what the optimisation of this round found, see `OptimizedLogits`.
        kl: [B], KL of the reveals from the prior's, summed over the rounds up to this one, as in `Generation`.
    """

    round_index: int
    num_rounds: int
    tokens: Tensor
    clean: Tensor
    optimized: OptimizedLogits
    kl: Tensor


@with_gradients
@hands_on
def guided_sample(
    denoiser: Denoiser,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    *,
    estimator: str | Callable[..., Tensor] | Annealed,
    num_rounds: int = 20,
    schedule: str = "linear",
    order: str | Tensor | Order | None = None,
    remask_sigma: float = 0.0,
    block_size: int | None = None,
    threshold: float | None = None,
    end_token: int | None = None,
    pad_token: int | None = None,
    condition: Condition | None = None,
    temperature: float = 1.0,
    num_steps: int = 20,
    lr: Schedule = 0.5,
    kl_weight: float = 1.0,
    num_samples: int | None = None,
    forgetting: float = 0.0,
    max_grad_norm: float | None = None,
    early_stop: EarlyStop | None = None,
    commit: str = "sample",
    checkpoint: str | Path | None = None,
    callback: Callable[[RoundInfo], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    generator: Generator | None = None,
) -> Generation:
    """Fills the masked positions of `tokens` by masked diffusion; every round optimises the logits for the reward.

    In each round: prior logits from the denoiser at `temperature`, revealed tokens carried over; `optimize_logits` on
    the masked positions (num_steps, lr, kl_weight, num_samples, max_grad_norm, early_stop as there), started at the
    prior plus (1 - forgetting) times the tilt of the round before (1: no warm start); tokens drawn from the result; a
    reverse step (num_rounds, schedule, order, remask_sigma, block_size, threshold as in `Unmasking`). With blocks only
    the present one is optimised; the reward sees draws from the prior at the later ones.

    `order` None is "confidence", by measurement (docs/guidance.md); in uniform-state diffusion it is "ancestral", which
    it must be. Take "ancestral" where the law matters, or results shall differ, or most of an image is background.

    `commit` is what a round proposes: "sample" (a draw from the optimised logits), "argmax", or "best" (the hard sample
    of the highest reward that the round's optimisation saw). `callback(RoundInfo)` may end the generation by returning
    True: positions still masked then take their proposal. `progress(done, total)` is called after every round.
    `checkpoint`: a file (safetensors) written after every round, and left there; the same call finds it and goes on, to
    bitwise the same result. It needs a `generator`. A file made with another setting, prompt, estimator, reward (by its
    name) or seed is refused, by name; a finished one is returned with a warning.

    Cost:   num_rounds model evaluations; num_rounds * num_steps * num_samples of the reward and of its gradient, and
            one.
    Raises: as `sample` and `optimize_logits`; ValueError if the checkpoint belongs to other settings or is damaged.
    """
    if order is None:
        order = "confidence" if is_masked(denoiser) else "ancestral"
    unmasking = Unmasking(num_rounds, schedule, order, remask_sigma, block_size, threshold, end_token, pad_token)
    process = ReverseProcess.start(denoiser, tokens, unmasking, condition, temperature, generator, reward=reward)
    settings = Optimization(estimator, num_steps, lr, kl_weight, num_samples, forgetting, max_grad_norm, early_stop)
    return generate(process, reward, tokens, settings, commit, checkpoint, callback, progress)


def generate(
    process: ReverseProcess,
    reward: Reward,
    tokens: Int[Tensor, "B L"],
    settings: Optimization,
    commit: str = "sample",
    checkpoint: str | Path | None = None,
    callback: Callable[[RoundInfo], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Generation:
    """The loop of `guided_sample`: all rounds of a process, each optimised by the settings."""
    check_choice("commit", commit, ("sample", "argmax", "best"))
    file, state = _begin(checkpoint, tokens, process, settings, commit, reward)
    num_rounds, reward = process.unmasking.num_rounds, process.bound(reward)
    while state.round_index < num_rounds and not state.stopped and not process.is_done(state.tokens):
        prior = process.prior(state.tokens, state.round_index)
        try:
            frozen = ~process.masked(state.tokens)
            problem = Problem.of(prior, reward, state.tokens, frozen, track_best=commit == "best")
            if process.unmasking.block_size is not None:
                problem.keep_tilt_outside(process.window(state.tokens, state.round_index))
            optimized = optimize(problem, settings, warm_start=state.tilt, generator=process.generator)
        except RewardError as error:
            raise RewardError(f"round {state.round_index}: {error}") from error
        clean, log_prob = _propose(optimized, commit, process, state.tokens)
        after = process.step(state.tokens, clean, log_prob, state.round_index, prior=prior, logits=optimized.logits)
        info = RoundInfo(state.round_index, num_rounds, after, clean, optimized, state.kl)
        keep = settings.forgetting < 1
        following = _next_state(state, process, prior, info, stopped=False, keep=keep)
        if callback is not None and asks_to_stop(callback(dataclasses.replace(info, kl=following.kl))):
            after = process.completed(torch.where(process.masked(after), clean, after))
            info = dataclasses.replace(info, tokens=after)
            following = _next_state(state, process, prior, info, stopped=True, keep=keep)
        state = following
        if file:
            file.save(state)
        if progress is not None:
            progress(state.round_index, num_rounds)
    evaluations, vocab_size = state.evaluations + Evaluations(reward=1), state.vocab_size
    if not vocab_size:  # there was nothing to generate
        vocab_size = process.vocab_size(state.tokens)
        evaluations += Evaluations(model=process.evaluations_per_round)
    rewards = reward_of(reward, state.tokens, vocab_size, "for the finished tokens")
    return Generation(state.tokens, rewards, state.prior_log_prob, state.kl, state.trace, evaluations)


def _begin(
    checkpoint: str | Path | None,
    tokens: Tensor,
    process: ReverseProcess,
    settings: Optimization,
    commit: str,
    reward: Reward,
) -> tuple[Checkpoint | None, GuidedState]:
    """The file to write into, and the state that it holds, or the first one."""
    file, state = None, None
    if checkpoint is not None:
        made = made_with(tokens, process, settings, commit, reward)
        file = Checkpoint.of(checkpoint, made, process.generator, settings.estimator)
        state = file.load(tokens)
    if state is not None and (state.stopped or state.round_index == process.unmasking.num_rounds):
        warnings.warn(
            f"{checkpoint} holds this generation, finished: it is returned, nothing is generated", stacklevel=6
        )
    return file, state or GuidedState.start(process.limit(tokens))


def _propose(optimized: OptimizedLogits, commit: str, process: ReverseProcess, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Proposed tokens [B, L] and their log-probabilities under the optimised logits [B, L]."""
    if commit == "sample":
        return process.draw(optimized.logits, tokens)
    clean = optimized.best_tokens if commit == "best" else None
    if clean is None:  # argmax, or nothing was optimised
        clean = optimized.logits.argmax(-1)
    return clean, _log_prob(optimized.logits, clean)


def _next_state(
    state: GuidedState, process: ReverseProcess, prior: Tensor, info: RoundInfo, *, stopped: bool, keep: bool
) -> GuidedState:
    optimized = info.optimized
    last = stopped or state.round_index + 1 == info.num_rounds
    fixed, drawn = process.decided(state.tokens, info.tokens, last=last)
    guided, log_prior = (
        process.transition(logits[drawn], state.tokens[drawn], state.round_index, last=last)
        for logits in (optimized.logits, prior.to(optimized.logits.dtype))
    )
    log_prior = torch.log_softmax(log_prior, -1)
    zeros = torch.zeros(drawn.shape, dtype=guided.dtype, device=guided.device)
    kl = zeros.masked_scatter(drawn, divergence(guided, log_prior).kl)
    log_prob = zeros.masked_scatter(drawn, _log_prob(log_prior, info.tokens[drawn])) * fixed
    trace, masked = Trace(list(state.trace.rows)), float(process.masked(state.tokens).sum(-1).float().mean())
    for row in optimized.trace.rows:
        trace.append(round=state.round_index, masked=masked, **row)
    return GuidedState(
        round_index=state.round_index + 1,
        tokens=info.tokens,
        tilt=_kept_tilt(state, process, optimized) if keep and not last else None,
        kl=state.kl + kl.sum(-1).float(),
        prior_log_prob=state.prior_log_prob + log_prob.sum(-1).float(),
        trace=trace,
        evaluations=state.evaluations + optimized.evaluations + Evaluations(model=process.evaluations_per_round),
        vocab_size=prior.shape[-1],
        stopped=stopped,
    )


def _kept_tilt(state: GuidedState, process: ReverseProcess, optimized: OptimizedLogits) -> Tensor:
    """The tilt for the next round; of tokens that were revealed and may be masked again, the last one they had."""
    if state.tilt is None or process.unmasking.remask_sigma == 0:
        return optimized.tilt
    return torch.where(process.masked(state.tokens).unsqueeze(-1), optimized.tilt, state.tilt)


def _log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
