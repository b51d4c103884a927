"""One step of a run: what is summed over ranks, and what ends a run that goes wrong.

Offers `StepTally` and `SourceLosses` (losses and counts), `LossLimit` and `stop_if_bad`,
`SkippedUpdates`, `explain_out_of_memory` and `watchdog` (ranks that hang). Must not know the loop,
the loader or a checkpoint.
"""
