"""The pure-torch fast path, for any device: layouts, hand-derived adjoints, one autograd function."""
