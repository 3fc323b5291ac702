"""Whether a loss has a gradient in its argument: the autograd graph says so, whatever else the loss depends on."""

from typing import Any

from torch import Tensor


def leads_to(result: Tensor, node: Any) -> bool:
    """Whether a backward pass from `result` would come to that `grad_fn`. Cost: a look at every node, at most."""
    left: list[Any] = [result.grad_fn]
    seen: set[Any] = {None}
    while left:
        at = left.pop()
        if at is node:
            return True
        for following, _ in at.next_functions if at is not None else ():
            if following not in seen:
                seen.add(following)
                left.append(following)
    return False
