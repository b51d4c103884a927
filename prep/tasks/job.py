"""The job of a build: what all its tasks share apart from the plan, stored in the work folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vchat.base.files import write_atomically
from vchat.base.toml_config import from_table, to_table
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.tasks.output import Output
from vchat.shards.storage.config import StorageConfig

JOB_FILE = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFiles:
    """Where one source's records and images lie."""

    records: str
    """Path of the file that `staged.RecordFile` maps."""

    roots: tuple[str, ...]
    """Folders or URLs below which its images are looked up, in order."""

    folders: tuple[str, ...]
    """Image folders that the source names itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """What all tasks of a build share, apart from the plan; stored as `JOB_FILE`."""

    output: Output
    """Where the shards go."""

    storage: StorageConfig
    """How folders of images in object storage are reached."""

    sources: dict[str, SourceFiles]
    image: ImagePolicy
    template: str
    system: str | None
    max_tokens: int
    positions_per_image: int
    libraries: dict[str, str]
    """Name -> version of the libraries that shape bytes, on the machine that made the plan."""

    def write(self, work: Path) -> None:
        """Store the job in the work folder."""
        with write_atomically(work / JOB_FILE) as file:
            parts = {"output": to_table(self.output), "storage": to_table(self.storage)}
            content = asdict(self) | parts
            file.write(json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, work: Path) -> BuildJob:
        """Read what `write` stored."""
        found = json.loads((work / JOB_FILE).read_text(encoding="utf-8"))
        found["output"] = from_table(Output, found["output"], where=JOB_FILE)
        found["storage"] = from_table(StorageConfig, found["storage"], where=JOB_FILE)
        found["image"] = ImagePolicy(**found["image"])
        found["sources"] = {name: SourceFiles(**one) for name, one in found["sources"].items()}
        return cls(**found)
