"""Vision towers and projections: pixels to vectors that a decoder reads.

Knows no decoder.
"""
