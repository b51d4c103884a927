"""Checkpoints: complete or absent, resumable, mirrored to object storage.

Knows no loop.
"""
