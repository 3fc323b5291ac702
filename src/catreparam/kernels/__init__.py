"""Naive twins that read like the paper; fast twins stand beside them under the same signature."""
