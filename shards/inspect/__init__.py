"""What a shard set holds, whether it is intact, and how the model reads it.

Knows no training run.
"""
