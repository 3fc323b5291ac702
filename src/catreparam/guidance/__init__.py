"""Reward guidance of discrete diffusion models: optimise logits against a reward and the KL divergence to a prior."""

from catreparam.guidance.embedding import codebook_embed
from catreparam.guidance.generate import RoundInfo, guided_sample
from catreparam.guidance.optimize import OptimizedLogits, StepInfo, optimize_logits
from catreparam.guidance.rewards import BlackBoxError, BlackBoxReward, Reward
from catreparam.guidance.stopping import Annealed, EarlyStop
from catreparam.guidance.trace import Evaluations, Generation, Trace

__all__ = [
    "Annealed",
    "BlackBoxError",
    "BlackBoxReward",
    "EarlyStop",
    "Evaluations",
    "Generation",
    "OptimizedLogits",
    "Reward",
    "RoundInfo",
    "StepInfo",
    "Trace",
    "codebook_embed",
    "guided_sample",
    "optimize_logits",
]
