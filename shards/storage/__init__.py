"""Bytes by name, on disk or in object storage: ranges, retries, credentials, a disk cache.

Knows nothing of samples or plans.
"""
