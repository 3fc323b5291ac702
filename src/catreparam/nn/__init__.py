"""Modules with a categorical variable inside: bottleneck, router, vector quantisers. Imports estimators, schedules.

`hugging_face`, which imports transformers, is imported by itself.
"""

from catreparam.nn.bottleneck import CategoricalBottleneck
from catreparam.nn.codebook import Quantized, VectorQuantizer
from catreparam.nn.router import TopKRouter
from catreparam.nn.routing import Routing
from catreparam.nn.vector_quantizer import GumbelVectorQuantizer, Wav2Vec2GumbelVectorQuantizer

__all__ = [
    "CategoricalBottleneck",
    "GumbelVectorQuantizer",
    "Quantized",
    "Routing",
    "TopKRouter",
    "VectorQuantizer",
    "Wav2Vec2GumbelVectorQuantizer",
]
