"""Vision towers and projections: pixels to vectors that a decoder reads.

Offers `HuggingFaceTower`, which runs every tower, `read_traits`, and `build_projection`. Knows no
decoder.
"""
