"""Copies of a run's checkpoints in object storage: complete or absent, as on disk.

    URL/step-000100/...             the files of the folder; files.json comes last
    URL/frozen/...                  weights that the run does not train, which the folders refer to
    URL/log.jsonl                   the log up to the newest copy

A host that has lost its disk, or never had the run, fetches the newest complete copy. Endpoint and
credentials are those by which shards are read, see `[storage]`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vchat.base.files import sha256_file, write_atomically
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.remote import PARTS_IN_FLIGHT, RemoteStore
from vchat.shards.storage.store import ShardError
from vchat.train.checkpoints.facts import describe_wrong_entry
from vchat.train.checkpoints.step_folder import (
    find_newest,
    parse_step,
    rename_into_place,
    step_name,
)

PARALLEL_TRANSFERS = 4
LISTING = "files.json"


class Mirror:
    """The copies of one run's checkpoints. Errors of storage are OSErrors that name the object."""

    def __init__(self, url: str, *, storage: StorageConfig):
        """Connect; nothing is read yet.

        Raises:
            ValueError: the URL carries a secret, or needs other settings.
        """
        self.url = url.rstrip("/")
        self._store = RemoteStore(self.url, storage=storage)

    def newest_step(self) -> int | None:
        """Return the highest step that has a complete copy, or None."""
        return max(self._steps(complete=True), default=None)

    def upload(self, folder: Path, *, log: Path, keep_last: int) -> None:
        """Copy a complete step folder and the log; then remove old and incomplete copies."""
        name = folder.name
        self._remove(name)
        listing = json.loads((folder / LISTING).read_text(encoding="utf-8"))
        wanted = {_object_name(name, file): folder / file for file in listing}
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            jobs = [
                pool.submit(self._put, object_name, path)
                for object_name, path in wanted.items()
                if object_name.startswith(f"{name}/") or not self._has(object_name)
            ]
            for job in jobs:
                job.result()
        if log.is_file():
            self._put("log.jsonl", log)
        self._put(f"{name}/{LISTING}", folder / LISTING)
        complete = sorted(self._steps(complete=True))
        kept = complete[-keep_last:] if keep_last else complete
        for step in self._steps(complete=False):
            if step not in kept:
                self._remove(step_name(step))

    def download(self, step: int, out: Path) -> Path:
        """Copy a step folder into `out`, where it appears complete and verified.

        Raises:
            ValueError: a file is not the one that was saved.
        """
        name = step_name(step)
        listing = self._read_listing(name)
        part = out / f".{name}.fetched"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            jobs = []
            for listed, facts in listing.items():
                found = _object_name(name, listed)
                inside = found.startswith(f"{name}/")
                path = part / found.removeprefix(f"{name}/") if inside else out / found
                jobs.append(pool.submit(self._download_file, found, path, sha256=facts["sha256"]))
            for job in jobs:
                job.result()
        with write_atomically(part / LISTING) as file:
            file.write(self._get(f"{name}/{LISTING}"))
        log = out / "log.jsonl"
        if not log.exists():
            with write_atomically(log) as file:
                file.write(self._get("log.jsonl"))
        return rename_into_place(part, out / name)

    def _read_listing(self, folder: str) -> dict[str, Any]:
        """Read what a copy consists of; raises ValueError if it lists anything but its files."""
        listing = json.loads(self._get(f"{folder}/{LISTING}"))
        if not isinstance(listing, dict):
            raise ValueError(f"{self.url}/{folder}/{LISTING}: want a JSON object")
        for listed, facts in listing.items():
            problem = describe_wrong_entry(listed, facts)
            if problem is not None:
                raise ValueError(f"{self.url}/{folder}: {problem}")
        return listing

    def _download_file(self, name: str, path: Path, *, sha256: str) -> None:
        """Stream one object into a file, atomically and verified, unless the file exists."""
        if path.exists() and sha256_file(path) == sha256:
            return
        digest = hashlib.sha256()
        with (
            write_atomically(path) as file,
            ThreadPoolExecutor(PARTS_IN_FLIGHT) as pool,
            _errors_of_storage(),
        ):
            for part in self._store.read_parts(name, self._store.size(name), pool=pool):
                digest.update(part)
                file.write(part)
            if digest.hexdigest() != sha256:
                raise ValueError(f"{self.url}/{name}: SHA-256 {digest.hexdigest()}, want {sha256}")

    def _put(self, name: str, path: Path) -> None:
        with _errors_of_storage():
            self._store.put(name, path)

    def _get(self, name: str) -> bytes:
        with _errors_of_storage():
            return self._store.read_all(name)

    def _steps(self, *, complete: bool) -> list[int]:
        """Return the steps that have objects here, or those whose copy is complete."""
        with _errors_of_storage():
            _, folders = self._store.list_folder("")
        steps = [step for step in map(parse_step, folders) if step is not None]
        return [step for step in steps if not complete or self._has(f"{step_name(step)}/{LISTING}")]

    def _has(self, name: str) -> bool:
        with _errors_of_storage():
            return self._store.size_if_there(name) is not None

    def _remove(self, folder: str) -> None:
        """Delete a copy, its listing first, so that a half-deleted one is never found."""
        with _errors_of_storage():
            names = [name for name, _ in self._store.list_below(folder)]
            for name in sorted(names, key=lambda name: not name.endswith(f"/{LISTING}")):
                self._store.remove(name)


@contextlib.contextmanager
def _errors_of_storage() -> Iterator[None]:
    """Raise errors of storage as OSError: a failed copy is not bad input."""
    try:
        yield
    except ShardError as err:
        raise OSError(str(err)) from err


def _object_name(folder: str, file: str) -> str:
    """Return the object name of a file that a step folder lists, in the folder or in `frozen/`."""
    return posixpath.normpath(f"{folder}/{file}")


def download_if_newer(mirror: Mirror, out: Path) -> Path | None:
    """Download the newest copy if `out` has no complete folder of that step or a later one."""
    newest, here = mirror.newest_step(), find_newest(out)
    if newest is None or (here is not None and newest <= (parse_step(here.name) or 0)):
        return None
    return mirror.download(newest, out)
