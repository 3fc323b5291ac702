"""`catreparam run law`: the law of the hard sample against softmax(logits)."""
