"""Open a shard set in a local folder or in object storage.

The small files of a remote set are copied to the local disk; its shards are read where they lie.
The manifest is read at every opening. Copies of index and tokenizer lie in a folder named by the
manifest's digest, so another build under the same URL never meets old copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vchat.base.files import write_atomically
from vchat.base.safe_paths import join_inside, read_regular
from vchat.shards.format.index import MAX_PART_BYTES
from vchat.shards.format.manifest import MANIFEST, MAX_MANIFEST_BYTES, parse_manifest
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.cache import ShardCache
from vchat.shards.storage.cached_store import CachedStore
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.remote import RemoteStore
from vchat.shards.storage.store import ShardError
from vchat.shards.text.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_FILES


def open_shards(folder: Path | str, *, storage: StorageConfig | None = None) -> ShardSet:
    """Open a published shard set; reads `manifest.json`, and all small files if it is remote.

    Args:
        folder: A local folder, or a URL (`s3://bucket/mix-v1`, `gs://`, `az://`, `https://`).
        storage: Settings for a remote set; by default no endpoint and no cache.

    Raises:
        ValueError: There is no such folder, its build is not finished, or its manifest is malformed
            or has an unknown format version.
    """
    if "://" in str(folder):
        return open_remote_shards(str(folder), storage=storage)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; wanted a folder of shards")
    try:
        data = read_regular(folder, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise ValueError(
            f"no manifest.json in {folder}: the build is not finished, or these are no shards"
        ) from error
    return ShardSet(folder, manifest=parse_manifest(data, folder / MANIFEST))


def open_remote_shards(
    url: str, *, copies: Path | None = None, storage: StorageConfig | None = None
) -> ShardSet:
    """Open the shard set under a URL.

    Args:
        url: `s3://`, `gs://`, `az://`, `http://` or `https://`.
        copies: Folder for copies of small files, by default in the cache, or `~/.cache/vchat/sets`.
        storage: Endpoint, credentials, time limits, and the cache for whole shards.

    Raises:
        ValueError: There is no manifest, it is malformed, or a small file is not as it lists it.
    """
    storage = storage or StorageConfig()
    if storage.cache is not None and storage.cache.exists() and not storage.cache.is_dir():
        raise ValueError(f"storage.cache = {storage.cache} is a file, wanted a folder")
    store = RemoteStore(url, storage=storage)
    try:
        data = _read_small_file(store, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    except ShardError as err:
        raise ValueError(f"no manifest.json under {url}: {err}") from err
    manifest = parse_manifest(data, f"{url}/{MANIFEST}")
    sets = copies or (storage.cache or Path.home() / ".cache" / "vchat") / "sets"
    folder = sets / hashlib.sha256(data).hexdigest()
    for name, (sha256, max_bytes) in _small_files(manifest).items():
        _copy_small_file(store, name, folder=folder, sha256=sha256, max_bytes=max_bytes)
    with write_atomically(folder / MANIFEST) as file:
        file.write(data)
    shards = _make_shard_store(store, manifest, storage=storage)
    return ShardSet(folder, manifest=manifest, store=shards, url=url)


def _make_shard_store(
    remote: RemoteStore, manifest: dict[str, Any], *, storage: StorageConfig
) -> RemoteStore | CachedStore:
    """Return the store of a manifest's shards: over the network, or with the cache."""
    remote.sizes |= {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
    if storage.cache is None:
        return remote
    cache = ShardCache(storage.cache, limit_bytes=storage.cache_bytes)
    digests = {shard["name"]: shard["sha256"] for shard in manifest["shards"]}
    return CachedStore(remote, cache, digests=digests)


def _small_files(manifest: Mapping[str, Any]) -> dict[str, tuple[str | None, int]]:
    """Return digest (None if it is not known) and size limit of index and tokenizer, by name."""
    parts = {f"index/{one['name']}": one["sha256"] for one in manifest["index"]}
    digests = manifest["tokenizer"].get("files", dict.fromkeys(TOKENIZER_FILES))
    files = {f"tokenizer/{name}": digest for name, digest in digests.items()}
    return {name: (digest, MAX_PART_BYTES) for name, digest in parts.items()} | {
        name: (digest, MAX_TOKENIZER_BYTES) for name, digest in files.items()
    }


def _copy_small_file(
    store: RemoteStore, name: str, *, folder: Path, sha256: str | None, max_bytes: int
) -> None:
    """Copy a file into the folder unless it is there; a copy appears whole and checked.

    Raises:
        ValueError: The file has another digest than `sha256`, or is larger than `max_bytes`.
    """
    path = join_inside(folder, name)
    if path.exists():
        return
    data = _read_small_file(store, name, max_bytes=max_bytes)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"{store.url}/{name} has sha256 {found}, manifest.json says {sha256}")
    with write_atomically(path) as file:
        file.write(data)


def _read_small_file(store: RemoteStore, name: str, *, max_bytes: int) -> bytes:
    """Return a whole object, or raise ValueError if it is larger than `max_bytes`."""
    size = store.size(name)
    if size > max_bytes:
        raise ValueError(f"{store.url}/{name} has {size} bytes, wanted at most {max_bytes}")
    return store.read(name, 0, size)
