"""Where a build writes its shard set: a local folder, or a URL to which files are uploaded.

Files are always written below a local folder. With a URL each is uploaded when it is finished, and
only where no object exists: shards as tasks end, then index, tokenizer and report, the manifest
last. So an object has its final bytes or does not exist, and readers, which begin with the
manifest, never see half a set.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from vchat.base.cli import WrongUse
from vchat.base.files import sha256_file, write_atomically
from vchat.shards.storage.config import StorageConfig, refuse_secrets
from vchat.shards.storage.remote import RemoteStore

CLAIM = ".work/build.json"
"""The object that says which build owns a URL before there is a manifest."""

MANIFEST = "manifest.json"
_UPLOADS = ("s3", "gs", "az")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The folder or URL of one shard set."""

    folder: Path
    """Where files are written; the set itself unless there is a URL."""

    url: str | None = None
    storage: StorageConfig = field(default_factory=StorageConfig)
    """How the URL is reached."""

    def __str__(self) -> str:
        return self.url or str(self.folder)

    @property
    def work(self) -> Path:
        """The folder of staged records, plan, and results."""
        return self.folder / ".work"

    @property
    def is_complete(self) -> bool:
        """Whether a set is published here."""
        if self.url is None:
            return (self.folder / MANIFEST).exists()
        return self._store.size_if_there(MANIFEST) is not None

    def read(self, name: str) -> bytes:
        """Return a small file of the published set."""
        if self.url is None:
            return (self.folder / name).read_bytes()
        return self._store.read_all(name)

    def has(self, name: str, size_bytes: int) -> bool:
        """Return whether a finished file of that size is in its final place."""
        if self.url is None:
            path = self.folder / name
            return path.exists() and path.stat().st_size == size_bytes
        return self._store.size_if_there(name) == size_bytes

    def put(self, name: str, *, sha256: str) -> None:
        """Bring a finished file to its final place; with a URL, delete the local one.

        Raises:
            ValueError: Other content has its name there.
            OSError: It cannot be stored.
        """
        if self.url is not None:
            self._store.create(name, self.folder / name, sha256=sha256)
            (self.folder / name).unlink()

    def claim(self, digest: str) -> None:
        """Claim a URL for the build of this plan; a folder needs no claim.

        Raises:
            ValueError: Another build has claimed it.
        """
        if self.url is None:
            return
        path = self.work / "claim.json"
        content = json.dumps({"plan": digest}).encode()
        with write_atomically(path) as file:
            file.write(content)
        try:
            self._store.create(CLAIM, path, sha256=hashlib.sha256(content).hexdigest())
        except ValueError:
            check_same_build(self, json.loads(self._store.read_all(CLAIM))["plan"], digest)
            raise

    def publish(self) -> None:
        """Upload the other files of the folder, the manifest last; without a URL, do nothing."""
        if self.url is None:
            return
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        rest = [name for name in names if not name.startswith(".work/") and name != MANIFEST]
        for name in (*rest, MANIFEST):
            self.put(name, sha256=sha256_file(self.folder / name))

    @property
    def _store(self) -> RemoteStore:
        assert self.url is not None
        return _connect(self.url, self.storage)


@lru_cache(maxsize=4)
def _connect(url: str, storage: StorageConfig) -> RemoteStore:
    return RemoteStore(url, storage=storage)


def parse_output(
    out: str | None, *, work: str | None, storage: StorageConfig | None = None
) -> Output:
    """Return the output that flags or a recipe name.

    Args:
        out: Folder or URL.
        work: Local folder for files that will be uploaded to a URL; None for one of its own below
            `~/.cache/vchat/builds`.
        storage: How a URL is reached.

    Raises:
        WrongUse: There is none, or `work` is given for a local folder.
    """
    if out is None:
        raise WrongUse("no output: give a folder or a URL with --out")
    if "://" not in out:
        if work is not None:
            raise WrongUse(f"--work {work}: has no place with a local --out, which has its own")
        return Output(folder=Path(out))
    url = _check_url(out)
    folder = _default_work_folder(url) if work is None else Path(work)
    return Output(folder=folder, url=url, storage=storage or StorageConfig())


def _check_url(out: str) -> str:
    if out.partition("://")[0] not in _UPLOADS:
        raise WrongUse(f"--out {out}: want a local folder, or s3://, gs:// or az://")
    try:
        refuse_secrets(out)
    except ValueError as err:
        raise WrongUse(f"--out {err}") from err
    return out.rstrip("/")


def _default_work_folder(url: str) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path.home() / ".cache" / "vchat" / "builds" / digest


def check_same_build(output: Output, found: object, expected: str) -> None:
    """Check that the plan digest found in an output is that of this build.

    Raises:
        ValueError: It is not; names both.
    """
    if found != expected:
        raise ValueError(
            f"{output} holds another build: its plan is {str(found)[:16]}, the one asked for is"
            f" {expected[:16]} (other flags, annotation files or pictures); choose another --out,"
            " or delete what is there"
        )
