"""The denoiser of the reverse diffusion for JAX; the solvers are those of `catreparam.kernels.naive.chain`."""

import jax

from catreparam.jax.categorical import BroadcastRows


def denoise(z: BroadcastRows, logits: BroadcastRows, lam: float) -> BroadcastRows:
    """E[x_0 | z] = softmax(logits + lambda z), exact for a one-hot x_0 with prior softmax(logits)."""
    return jax.nn.softmax(logits + lam * z, -1)
