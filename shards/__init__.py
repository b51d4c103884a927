"""Shards: written whole, read in any order, planned before anything is read.

What `__all__` names is public. Rooms, each on those before it: text, pixels, storage, format, plan,
loading, inspect, viewer, commands. Nothing here knows a model or a data set.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vchat.shards.format.open_shards import open_shards as open_shards
    from vchat.shards.format.record import ImageRef as ImageRef
    from vchat.shards.format.record import Record as Record
    from vchat.shards.format.record import Round as Round
    from vchat.shards.format.shard_set import ShardSet as ShardSet
    from vchat.shards.loading.collate import Batch as Batch
    from vchat.shards.loading.loader import Loader as Loader
    from vchat.shards.loading.raw_samples import RawSamples as RawSamples
    from vchat.shards.plan.arguments import PlanArguments as PlanArguments
else:
    from vchat.base.faces import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "Batch": "loading.collate",
            "ImageRef": "format.record",
            "Loader": "loading.loader",
            "PlanArguments": "plan.arguments",
            "RawSamples": "loading.raw_samples",
            "Record": "format.record",
            "Round": "format.record",
            "ShardSet": "format.shard_set",
            "open_shards": "format.open_shards",
        },
    )

__all__ = [
    "Batch",
    "ImageRef",
    "Loader",
    "PlanArguments",
    "RawSamples",
    "Record",
    "Round",
    "ShardSet",
    "open_shards",
]
