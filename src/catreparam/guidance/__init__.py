"""Reward guidance of discrete diffusion: logits against reward and KL. Imports masked_diffusion, estimators, report."""

from catreparam.guidance.best_of_n import best_of_n
from catreparam.guidance.embedding import codebook_embed, on_embeddings, on_images
from catreparam.guidance.embedding_guidance import QuantizedExpectation, aps, entrgi, entropy_mixing
from catreparam.guidance.generate import RoundInfo, guided_sample
from catreparam.guidance.optimize import OptimizedLogits, StepInfo, optimize_logits
from catreparam.guidance.rewards import BlackBoxError, BlackBoxReward, Reward, RewardError
from catreparam.guidance.smc import smc
from catreparam.guidance.stopping import Annealed, EarlyStop
from catreparam.guidance.svdd import svdd
from catreparam.guidance.trace import Evaluations, Generation, Trace

__all__ = [
    "Annealed",
    "BlackBoxError",
    "BlackBoxReward",
    "EarlyStop",
    "Evaluations",
    "Generation",
    "OptimizedLogits",
    "QuantizedExpectation",
    "Reward",
    "RewardError",
    "RoundInfo",
    "StepInfo",
    "Trace",
    "aps",
    "best_of_n",
    "codebook_embed",
    "entrgi",
    "entropy_mixing",
    "guided_sample",
    "on_embeddings",
    "on_images",
    "optimize_logits",
    "smc",
    "svdd",
]
