"""A shard set on disk: records, samples, index, manifest; written whole, opened with checks.

FORMAT.md beside this file describes every byte.

Knows no plan and no loader.
"""
