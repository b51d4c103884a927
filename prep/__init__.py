"""Preparation: raw data sets to a shard set.

What `__all__` names is public. Rooms, each on those before it: sample_data (draws a small world in
the formats of all sources), raw, sources, convert, plan, tasks, report, pipeline, commands. Nothing
here knows a model.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vchat.prep.convert.recipe import Recipe as Recipe
    from vchat.prep.pipeline.build import build_shards as build_shards
else:
    from vchat.base.faces import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "Recipe": "convert.recipe",
            "build_shards": "pipeline.build",
        },
    )

__all__ = ["Recipe", "build_shards"]
