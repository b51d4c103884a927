"""Preparation: raw data sets to a shard set.

What `__all__` names is public: builds, and what a package that adds a source needs. Rooms, each on
those before it: sample_data (draws a small world in the formats of all sources), raw, sources,
convert, plan, tasks, report, pipeline, commands. Nothing here knows a model.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vchat.prep.convert.recipe import Recipe as Recipe
    from vchat.prep.pipeline.build import build_shards as build_shards
    from vchat.prep.raw.rejected import Rejected as Rejected
    from vchat.prep.sources.source import Converted as Converted
    from vchat.prep.sources.source import Entry as Entry
    from vchat.prep.sources.source import Need as Need
    from vchat.prep.sources.source import Source as Source
    from vchat.prep.sources.texts import file_id as file_id
    from vchat.prep.sources.texts import require_text as require_text
else:
    from vchat.base.faces import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "Converted": "sources.source",
            "Entry": "sources.source",
            "Need": "sources.source",
            "Recipe": "convert.recipe",
            "Rejected": "raw.rejected",
            "Source": "sources.source",
            "build_shards": "pipeline.build",
            "file_id": "sources.texts",
            "require_text": "sources.texts",
        },
    )

__all__ = [
    "Converted",
    "Entry",
    "Need",
    "Recipe",
    "Rejected",
    "Source",
    "build_shards",
    "file_id",
    "require_text",
]
