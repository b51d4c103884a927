"""RUN.toml is read strictly, overridden by name, and written back as an equal value."""

import ast
import dataclasses
import inspect
import itertools
import typing
from pathlib import Path

import pytest

from vchat.base.toml_config import WrongKeyError, to_toml
from vchat.train.config.run import (
    FREE_TO_CHANGE,
    BatchConfig,
    RunConfig,
    find_run_file,
    read_run,
    result_settings,
    settings_digest,
)

SHIPPED = sorted((Path(inspect.getfile(RunConfig)).parent / "runs").glob("*.toml"))

SMALLEST = """
[data]
shards = "mix"
tokens_per_row = 256
images_per_row = 4

[model]
tower = "clip"
[model.decoder]
model_type = "llama"
hidden_size = 64

[batch]
rows_per_step = 8

[optimizer]
lr = 1e-3

[run]
out = "out"
steps = 10
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "RUN.toml"
    path.write_text(SMALLEST)
    return path


def test_values_arrive_with_their_types_and_the_published_defaults(run_file):
    config = read_run(run_file)
    assert config.data.shards == "mix"
    assert [shards.path for shards in config.data.sets] == ["mix"]
    assert config.data.set_weights == ()
    assert config.optimizer.lr == 1e-3
    assert config.model.decoder == {"model_type": "llama", "hidden_size": 64}
    assert config.train.parts == ("embeddings", "projection")
    assert config.deepspeed.zero_stage == 0


def test_an_override_wins_and_its_value_is_toml_or_else_a_string(run_file):
    overrides = ["run.steps=7", "run.out=other/place", 'train.parts=["tower"]', "optimizer.lr=1"]
    config = read_run(run_file, overrides=overrides)
    assert config.run.steps == 7
    assert config.run.out == Path("other/place")
    assert config.train.parts == ("tower",)
    assert config.optimizer.lr == 1.0


def test_an_override_reaches_into_a_table_of_a_model(run_file):
    config = read_run(run_file, overrides=["model.decoder.hidden_size=32"])
    assert config.model.decoder == {"model_type": "llama", "hidden_size": 32}


@pytest.mark.parametrize(
    "override, message",
    [
        ("batch.row_per_step=8", r"unknown key 'row_per_step' in \[batch\]; .*'rows_per_step'"),
        ("optimiser.lr=1", r"unknown key 'optimiser' at the top level; .*'optimizer'"),
        ("batch.rows_per_step=many", r"batch.rows_per_step = 'many'; want a whole number"),
        ("batch.rows_per_step=true", r"batch.rows_per_step = True; want a whole number"),
        ("deepspeed.zero_stage=4", r"deepspeed.zero_stage = 4; want one of 0, 1, 2, 3"),
        ('train.parts=["feet"]', r"train.parts = 'feet'; want one of 'embeddings', 'head'"),
        ('train.parts="tower"', r"train.parts = 'tower'; want a list"),
        ("model.tower=3", r"model.tower = 3; want a string or a table"),
        ("run.epochs=1", r"\[run\] give either steps or epochs"),
        ("model.start_from=x", r"\[model\] give decoder and tower, or start_from alone"),
        ("deepspeed.offload_optimizer=cpu", r"offload_optimizer needs zero_stage 1 to 3, got 0"),
        ("batch=1", r"batch = 1; want a table"),
        ("data.shards=[]", r"\[data\] shards must name at least one shard set"),
        ("data.shards=[1]", r"data.shards = \[1\]; want a string or a list, each a table"),
        ("steps", r"--set steps: write section.key=value"),
        ("run.steps.x=1", r"--set run.steps.x=1: steps is a value, not a section"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_wanted(run_file, override, message):
    with pytest.raises(WrongKeyError, match=message):
        read_run(run_file, overrides=[override])


def test_a_missing_required_key_is_named_with_its_file(run_file):
    run_file.write_text(SMALLEST.replace("lr = 1e-3", ""))
    with pytest.raises(
        WrongKeyError, match=r"RUN.toml: optimizer.lr is missing and has no default"
    ):
        read_run(run_file)


def test_a_file_that_is_absent_or_not_toml_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.toml: there is no such file"):
        read_run(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[data")
    with pytest.raises(ValueError, match=r"bad.toml: not valid TOML"):
        read_run(tmp_path / "bad.toml")


def test_a_configuration_written_and_read_again_is_equal(run_file, tmp_path):
    config = read_run(run_file, overrides=['run.out=a "b" \\ c', "model.decoder.rope={a=[1,2]}"])
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert read_run(tmp_path / "again.toml") == config


def test_only_listed_settings_are_free_to_change(run_file):
    first = result_settings(read_run(run_file))
    free = read_run(run_file, overrides=["run.out=b", "batch.rows_per_micro_batch=2"])
    other = read_run(run_file, overrides=["optimizer.lr=0.1"])
    assert settings_digest(result_settings(free)) == settings_digest(first)
    assert settings_digest(result_settings(other)) != settings_digest(first)


def test_sets_may_move_but_their_weights_shape_the_result(run_file):
    several = ['data.shards=[{path="a"}, {path="s3://b/c", weight=0.5}]']
    moved = ['data.shards=[{path="d"}, {path="e", weight=0.5}]']
    heavier = ['data.shards=[{path="a"}, {path="s3://b/c", weight=2}]']
    first = read_run(run_file, overrides=several)
    assert [shards.path for shards in first.data.sets] == ["a", "s3://b/c"]
    assert first.data.set_weights == (1.0, 0.5)
    assert result_settings(first) == result_settings(read_run(run_file, overrides=moved))
    assert result_settings(first) != result_settings(read_run(run_file, overrides=heavier))
    assert result_settings(first) != result_settings(read_run(run_file))


def test_every_free_setting_exists():
    hints = typing.get_type_hints(RunConfig)
    for name in FREE_TO_CHANGE:
        section, key = name.split(".")
        assert key in {field.name for field in dataclasses.fields(hints[section])}, name


def test_every_field_of_every_section_has_a_docstring():
    tree = ast.parse(Path(inspect.getfile(RunConfig)).read_text())
    sections = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for section in [s for s in sections if s.name != "RunConfig"]:
        for field, after in itertools.pairwise([*section.body, None]):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), (section.name, field.target.id)


@pytest.mark.parametrize(
    "rows_per_step, micro_batch, world_size, wanted",
    [(8, 1, 1, 8), (8, 2, 2, 2), (8, 3, 1, 3), (5, 2, 2, 2), (1, 1, 4, 1)],
)
def test_micro_batches_cover_the_step_on_any_world_size(
    rows_per_step, micro_batch, world_size, wanted
):
    batch = BatchConfig(rows_per_step=rows_per_step, rows_per_micro_batch=micro_batch)
    assert batch.micro_batches(world_size) == wanted


def test_no_process_is_an_error():
    with pytest.raises(ValueError, match="at least 1 process, got 0"):
        BatchConfig(rows_per_step=1).micro_batches(0)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_run_is_valid_and_found_by_its_name(path):
    assert find_run_file(Path(path.name)) == path
    assert read_run(path).run.save_every > 0


def test_an_own_file_takes_precedence_over_a_shipped_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text("")
    assert find_run_file(Path("tiny.toml")) == Path("tiny.toml")
    assert find_run_file(Path("other/tiny.toml")) == Path("other/tiny.toml")


TAKE_WHOLE_RUNS = {
    "config/run.py",  # what of it shapes the result
    "run/launch.py",  # the constructors of a run
    "run/prepare.py",
    "forecast/fitting.py",  # changes of a run
    "forecast/forecast.py",
    "forecast/gpu_memory.py",
}


def test_whole_configurations_stop_at_the_constructors_of_a_run():
    train = Path(inspect.getfile(RunConfig)).parents[1]
    found = {
        file.relative_to(train).as_posix()
        for file in train.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.arg)
        and node.annotation is not None
        and "RunConfig" in ast.unparse(node.annotation)
    }
    assert found <= TAKE_WHOLE_RUNS
