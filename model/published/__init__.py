"""What checkpoints trained by the published code need: their attention, options and weights.

Offers `PublishedDecoding`, `order_features` and `load_published`. `VisualChat` chooses by its
configuration; the rest of the model never asks whether a checkpoint is a published one.
"""
