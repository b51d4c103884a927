"""Checkpoints to and from other formats.

Offers `export.export_checkpoint` (a plain Hugging Face folder) and
`import_checkpoint.import_model` (a model that the published code trained). Trains nothing.
"""
