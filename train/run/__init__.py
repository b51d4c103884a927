"""The training run: launch, loop, data, loss per source, logs, held-out loss.

Knows no command line.
"""
