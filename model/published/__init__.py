"""Checkpoints trained by the published code: their names, options and weights.

The rest of the model never asks whether it is `published`.
"""
