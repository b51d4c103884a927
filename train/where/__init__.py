"""Which samples a step saw, and which steps saw a sample.

Changes nothing of a run.
"""
