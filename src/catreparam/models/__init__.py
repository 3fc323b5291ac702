"""Networks that make logits or read one-hot codes; none of them knows an estimator."""
