"""A build on Ray gives the bytes of a plain build, also when a machine is lost in the middle."""

import socket
import sys
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayTaskError

import vchat_testing.ray_cluster as ray_cluster
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.pipeline.build import build_shards
from vchat.prep.tasks.libraries import check_libraries, libraries
from vchat.prep.tasks.ray_engine import raise_failures, run_tasks
from vchat_testing.building import read_files
from vchat_testing.raw_data import write_image, write_llava
from vchat_testing.ray_cluster import run_in_namespace, why_no_namespace
from vchat_testing.toy import toy_tokenizer

needs_namespace = pytest.mark.skipif(
    bool(why_no_namespace()), reason=f"no network namespace: {why_no_namespace()}"
)


def prepare_folder(folder: Path, *, count: int, shard_size: str) -> list[str]:
    """Write data, build it plainly into `plain`, and return the command line of the same build."""
    write_llava(folder / "data", count=count)
    for number in range(1, count + 1):
        write_image(folder / f"data/coco/train2017/{number:012d}.jpg", "large", number=number)
    write_image(folder / "data/coco/train2017/000000000003.jpg", "truncated")
    toy_tokenizer(folder / "tokenizer")
    recipe = Recipe(
        source=(SourceChoice(name="llava", concatenate=2),),
        data=str(folder / "data"),
        tokenizer=str(folder / "tokenizer"),
        out=str(folder / "plain"),
        eval_fraction=0.0,
        shard_size=shard_size,
        positions_per_image=5,
        image=ImagePolicy(size=200),
    )
    build_shards(recipe)
    return [
        *(sys.executable, "-m", "vchat.prep.commands.main", "build", "--datasets", "llava"),
        *("--concatenate", "2", "--data", f"{folder}/data", "--tokenizer", f"{folder}/tokenizer"),
        *("--out", f"{folder}/out", "--eval-fraction", "0", "--shard-size", shard_size),
        *("--positions-per-image", "5", "--image-size", "200", "--engine", "ray"),
    ]


@needs_namespace
def test_a_build_on_one_ray_machine_gives_the_bytes_of_a_plain_build(tmp_path):
    command = prepare_folder(tmp_path, count=12, shard_size="20KB")
    done = run_in_namespace(command)
    assert done.returncode == 0, done.stderr
    assert read_files(tmp_path / "out") == read_files(tmp_path / "plain")


def test_a_task_that_fails_on_ray_raises_what_it_was(monkeypatch):
    def get(done):
        raise RayTaskError("task", "a long traceback", OSError("no space left"))

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(OSError, match=r"^no space left$"):
        raise_failures(ray, [])


def test_a_machine_with_another_library_version_is_refused_by_name():
    planned = libraries() | {"pillow": "1.0"}
    with pytest.raises(OSError, match=f"{socket.gethostname()} has pillow .*made with 1.0"):
        check_libraries(planned)


def test_an_address_where_nothing_listens_is_named():
    with pytest.raises(OSError, match=r"no Ray cluster at 127.0.0.1:1: Connection refused"):
        run_tasks(Path("work"), [0], address="127.0.0.1:1", on_dialogues=print)


def test_an_address_without_the_engine_is_refused():
    with pytest.raises(ValueError, match="needs engine = 'ray'"):
        Recipe(ray_address="auto")


@needs_namespace
@pytest.mark.soak
def test_a_ray_machine_that_is_killed_in_mid_build_loses_nothing(tmp_path):
    command = prepare_folder(tmp_path, count=1500, shard_size="400KB")
    program = [sys.executable, ray_cluster.__file__, tmp_path / "out"]
    done = run_in_namespace([*program, *command, "--ray-address"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed a machine; shards in work: 2" in done.stdout
    assert read_files(tmp_path / "out") == read_files(tmp_path / "plain")
