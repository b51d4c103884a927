"""What manifest and report say beside the results of the tasks, stored in the work folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vchat.base.files import write_atomically
from vchat.prep.convert.convert import StagedSource
from vchat.prep.report.unused_examples import Examples

PUBLICATION = "publication.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What `finish` needs besides the plan and the results; stored as `PUBLICATION`."""

    manifest: dict[str, Any]
    """The manifest without its shards."""

    staged: tuple[StagedSource, ...]
    unused_examples: dict[str, Examples]
    """Source -> examples of the records that the plan leaves out."""

    def write(self, work: Path) -> None:
        """Store it in the work folder."""
        staged = [asdict(one) | {"path": str(one.path.absolute())} for one in self.staged]
        with write_atomically(work / PUBLICATION) as file:
            found = {"manifest": self.manifest, "staged": staged, "left_out": self.unused_examples}
            file.write(json.dumps(found, indent=1).encode())

    @classmethod
    def read(cls, work: Path) -> Publication:
        """Read what `write` stored."""
        found = json.loads((work / PUBLICATION).read_text(encoding="utf-8"))
        staged = tuple(StagedSource(**one | {"path": Path(one["path"])}) for one in found["staged"])
        return cls(manifest=found["manifest"], staged=staged, unused_examples=found["left_out"])
