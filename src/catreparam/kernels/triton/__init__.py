"""The Triton path for CUDA devices: launches, kernels, and gradients attached."""
