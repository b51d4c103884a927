"""The training run: launch, loop, data, held-out loss.

Offers `run_training`, `prepare_run`, `train` (the loop), `RunData`, `measure_checkpoint`. Must not
know flags, tables or pages.
"""
