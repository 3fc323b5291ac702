"""The truth, in plain torch operations: the chain and the exact law as the paper writes them."""
