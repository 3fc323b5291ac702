"""Networks that make logits or read one-hot tokens, and how weights get in. Imports validation alone, no estimator."""
