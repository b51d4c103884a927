"""Checkpoints: complete or absent, resumable on any number of ranks, mirrored to object storage.

Offers `open_checkpoint` (imports neither torch nor DeepSpeed), `CheckpointWriter`,
`load_checkpoint`, `check_same_run`, `Mirror`. Must not know the loop.
"""
