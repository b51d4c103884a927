"""A saved plan is the plan; one of many processes makes it; a damaged one is made again."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from vchat.shards.plan import cursor as plan_cursor
from vchat.shards.plan import saved_plans as plan_store
from vchat.shards.plan.cursor import PlanCursor
from vchat.shards.plan.epoch import EpochPlan, plan_epoch
from vchat.shards.plan.saved_plans import folder_name, load_or_make_plan
from vchat_testing.toy_plans import arguments, regular_index

INDEX = regular_index()
NAME = folder_name(INDEX, arguments())


def assert_same_plan(found: EpochPlan, wanted: EpochPlan) -> None:
    assert found.digest == wanted.digest
    np.testing.assert_array_equal(found.row_offsets, wanted.row_offsets)
    np.testing.assert_array_equal(found.samples, wanted.samples)
    np.testing.assert_array_equal(found.excluded, wanted.excluded)
    assert found.num_tombstones == wanted.num_tombstones


def test_a_saved_plan_equals_a_new_one_and_is_mapped(tmp_path: Path) -> None:
    given = arguments(exclude=("toy/3",), tokens_per_row=27, on_too_long="exclude")
    wanted = plan_epoch(INDEX, given)
    assert len(wanted.excluded)
    assert wanted.num_tombstones == 1
    for _ in range(2):
        found = load_or_make_plan(INDEX, given, folder=tmp_path)
        assert_same_plan(found, wanted)
        assert isinstance(found.samples.base, np.memmap)
        assert not found.samples.flags.writeable


def test_plans_of_other_arguments_have_other_folders(tmp_path: Path) -> None:
    for epoch in (0, 1):
        given = arguments(epoch=epoch)
        assert_same_plan(load_or_make_plan(INDEX, given, folder=tmp_path), plan_epoch(INDEX, given))
    assert len(list(tmp_path.iterdir())) == 2


def ask(folder: Path, made: Path) -> None:
    """Ask for the plan in a process of its own; a process that makes it leaves a file."""

    def counted(*given: object) -> EpochPlan:
        (made / str(os.getpid())).touch()
        return plan_epoch(*given)  # type: ignore[arg-type]

    plan_store.plan_epoch = counted  # type: ignore[attr-defined]
    assert load_or_make_plan(INDEX, arguments(), folder=folder).num_rows


def test_of_many_processes_one_makes_the_plan(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    spawn = multiprocessing.get_context("fork")
    asking = [spawn.Process(target=ask, args=(tmp_path / "plans", made)) for _ in range(6)]
    for process in asking:
        process.start()
    for process in asking:
        process.join()
    assert [process.exitcode for process in asking] == [0] * 6
    assert len(list(made.iterdir())) == 1


def die_before_the_last_file(folder: Path) -> None:
    """Keep a plan, but be killed before the file that makes it complete."""

    def killed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    plan = plan_epoch(INDEX, arguments())
    plan_store.json.dumps = killed  # type: ignore[assignment]
    plan_store.write_plan(plan, folder / NAME)


def test_a_killed_process_leaves_no_partial_plan(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=die_before_the_last_file, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / NAME / "samples.npy").exists()
    assert not (tmp_path / NAME / "plan.json").exists()
    assert_same_plan(
        load_or_make_plan(INDEX, arguments(), folder=tmp_path), plan_epoch(INDEX, arguments())
    )


@pytest.mark.parametrize("name", ["samples.npy", "row_offsets.npy", "plan.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_plan_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    wanted = plan_epoch(INDEX, arguments())
    load_or_make_plan(INDEX, arguments(), folder=tmp_path)
    path = tmp_path / NAME / name
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    assert_same_plan(load_or_make_plan(INDEX, arguments(), folder=tmp_path), wanted)


def test_only_the_most_recently_used_plans_stay(tmp_path: Path) -> None:
    first = load_or_make_plan(INDEX, arguments(epoch=0), folder=tmp_path)
    for clock, epoch in enumerate(range(1, plan_store.MAX_PLANS + 2)):
        load_or_make_plan(INDEX, arguments(epoch=epoch), folder=tmp_path)
        os.utime(tmp_path / folder_name(INDEX, arguments(epoch=epoch)), (clock + 1e9, clock + 1e9))
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == plan_store.MAX_PLANS
    assert folder_name(INDEX, arguments(epoch=1)) not in left
    assert_same_plan(first, plan_epoch(INDEX, arguments(epoch=0)))  # its files may be gone


def test_a_cursor_saves_plans_of_large_sets_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursor() -> PlanCursor:
        return PlanCursor(
            INDEX,
            arguments(),
            rows_per_step=4,
            rows_per_micro_batch=1,
            rank=0,
            world_size=1,
            plan_folder=tmp_path,
        )

    wanted = plan_epoch(INDEX, arguments())
    assert_same_plan(cursor().plan(0), wanted)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(plan_cursor, "MIN_SAMPLES_TO_STORE", 1)
    assert_same_plan(cursor().plan(0), wanted)
    assert len(list(tmp_path.iterdir())) == 1
    here, saved = cursor(), cursor()
    for batch, again in itertools.islice(
        zip(
            here.batches_from(epoch=0, first_row=0),
            saved.batches_from(epoch=0, first_row=0),
            strict=True,
        ),
        9,
    ):
        assert batch.rows == again.rows
    shutil.rmtree(tmp_path)
    assert cursor().plan(0).digest == wanted.digest
