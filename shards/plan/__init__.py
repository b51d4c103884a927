"""Epoch plans: which samples, in which order, packed into which rows. Pure functions.

Knows no bytes and no threads.
"""
