"""The build plan: which records join which dialogue, which side of the split, which shard.

Pure functions on columns; opens no file of the sources.
"""
