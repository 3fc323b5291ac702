"""`catreparam guide`: image tokens guided by a reward, and their networks' training. Imports no other study."""
