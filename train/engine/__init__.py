"""The parts of a model, loaded, frozen, and given to DeepSpeed.

Knows no data.
"""
