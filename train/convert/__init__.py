"""Checkpoints to and from other formats: export, imports of models and towers.

Trains nothing.
"""
