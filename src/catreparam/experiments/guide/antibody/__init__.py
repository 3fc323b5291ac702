"""`catreparam guide antibody`: designs parts of an antibody towards properties, by guiding AntiBERTy."""
