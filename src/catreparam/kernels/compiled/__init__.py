"""The compiled CPU path: a C++ library called on tensors, with gradients attached."""
