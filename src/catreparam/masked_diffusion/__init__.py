"""Masked diffusion: denoisers, schedules, orders, remasking, samplers. Imports categorical and validation alone."""

from catreparam.masked_diffusion.adapters import from_masked_lm, from_mdlm
from catreparam.masked_diffusion.conditions import Condition
from catreparam.masked_diffusion.corruption import Corruption, Masked, Uniform
from catreparam.masked_diffusion.denoiser import (
    ClassifierFree,
    Denoiser,
    as_denoiser,
    carry_over,
    evaluations_per_call,
    prior_of,
)
from catreparam.masked_diffusion.orders import Proposal, confidence_order, halton_order
from catreparam.masked_diffusion.process import ReverseProcess
from catreparam.masked_diffusion.sampling import Sample, one_hot_tokens, sample
from catreparam.masked_diffusion.steps import MASK_SCHEDULES, Unmasking, mask_fraction, reverse_step
from catreparam.masked_diffusion.table import TableDenoiser
from catreparam.masked_diffusion.tokens import draw_tokens

__all__ = [
    "MASK_SCHEDULES",
    "ClassifierFree",
    "Condition",
    "Corruption",
    "Denoiser",
    "Masked",
    "Proposal",
    "ReverseProcess",
    "Sample",
    "TableDenoiser",
    "Uniform",
    "Unmasking",
    "as_denoiser",
    "carry_over",
    "confidence_order",
    "draw_tokens",
    "evaluations_per_call",
    "from_masked_lm",
    "from_mdlm",
    "halton_order",
    "mask_fraction",
    "one_hot_tokens",
    "prior_of",
    "reverse_step",
    "sample",
]
