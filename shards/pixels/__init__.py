"""Any picture to the pixels that a model sees: limits, decoding, resizing, positions of an image.

Knows no store and no sample.
"""
