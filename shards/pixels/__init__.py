"""Any picture to the pixels that a model sees: limits, decoding, resizing, positions of an image.

Offers `decode_to_store` (any picture to what a shard stores of it), `decode_into` and
`decode_tiles_into` (a stored image to the tower's input), `ImageGrid` (how many positions an image
takes) and the limits that builds and readers share. Knows no store and no sample.
"""
