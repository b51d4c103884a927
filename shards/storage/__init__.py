"""Bytes by name and range, from a folder or object storage: retries, credentials, a disk cache.

Offers the protocol `Store` and its errors (store), `LocalStore`, `RemoteStore` (remote; reads and
writes), `CachedStore` (whole shards on a local disk), `open_store_file` (a Python file), and
`StorageConfig` (config). A failed request is classified in `retries` and repeated in `remote`, and
nowhere else. Knows nothing of samples or plans.
"""
