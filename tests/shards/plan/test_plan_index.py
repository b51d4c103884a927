"""Plan columns come out of Arrow tables of any chunking unchanged."""

from __future__ import annotations

import pyarrow as pa

from vchat.shards.pixels.grid import ImageGrid
from vchat.shards.plan.plan_index import PlanIndex


def table(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "key": pa.array([f"k{'x' * n}" for n in numbers], pa.string()),
            "source": pa.array(["b" if n % 2 else "a" for n in numbers]).dictionary_encode(),
            "text_tokens": pa.array([10 + n for n in numbers], pa.int32()),
            "supervised_tokens": pa.array(list(numbers), pa.int32()),
            "num_images": pa.array([n % 3 for n in numbers], pa.int32()),
            "image_sizes": pa.array([[32, 16] * (n % 3) for n in numbers], pa.list_(pa.int32())),
            "shard": pa.array([n // 4 for n in numbers], pa.int32()),
        }
    )


def test_chunks_and_slices_do_not_change_the_columns() -> None:
    whole = pa.concat_tables([table(0, 5), table(5, 7)]).unify_dictionaries().slice(3, 8)
    index = PlanIndex.from_table(whole, digest="d")
    assert [index.keys[n] for n in range(8)] == [f"k{'x' * n}" for n in range(3, 11)]
    assert [index.sources[number] for number in index.source] == ["b", "a"] * 4
    assert index.text_tokens.tolist() == list(range(13, 21))
    assert index.num_images.tolist() == [n % 3 for n in range(3, 11)]
    assert index.image_positions(ImageGrid(positions_per_input=7)).tolist() == [
        7 * (n % 3) for n in range(3, 11)
    ]
    assert index.shard.tolist() == [n // 4 for n in range(3, 11)]


def test_a_table_without_rows_gives_an_empty_index() -> None:
    index = PlanIndex.from_table(table(0, 0), digest="d")
    assert (len(index), len(index.keys), len(index.image_sizes)) == (0, 0, 0)
