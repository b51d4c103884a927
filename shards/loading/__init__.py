"""Execute an epoch plan: read samples, check, decode and collate them, and resume exactly.

Entry points: `Loader` (batches for training; `batch_iterator.py` is its chain of stages),
`RawSamples` (undecoded samples for other trainers), `Batch`, `rank_work` (bytes, requests and
images per rank, before anything is read).

Knows plans, the format of shards and their storage. Must not know a model, or decide an order: what
is random or global is in the plan.
"""
