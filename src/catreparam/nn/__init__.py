"""Modules with a categorical variable inside: bottleneck, router, vector quantisers. Imports estimators, schedules."""

from catreparam.nn.bottleneck import CategoricalBottleneck
from catreparam.nn.router import Routing, TopKRouter
from catreparam.nn.vector_quantizer import GumbelVectorQuantizer, Wav2Vec2GumbelVectorQuantizer

__all__ = ["CategoricalBottleneck", "GumbelVectorQuantizer", "Routing", "TopKRouter", "Wav2Vec2GumbelVectorQuantizer"]
