"""Going on from a run folder executes nothing that lies in it."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from vchat_testing.training_runs import (
    losses,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

STEPS = ("run.steps=4", "run.save_every=2", "run.eval_every=0")


@pytest.fixture(scope="module", autouse=True)
def _quiet_deepspeed():
    prepare_deepspeed()


class Execute:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def rewrite(step: Path, name: str, change) -> None:
    """Change a file of a checkpoint and what its listing says of it, as its owner can."""
    change(step / name)
    listing = json.loads((step / "files.json").read_text())
    data = (step / name).read_bytes()
    listing[name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (step / "files.json").write_text(json.dumps(listing))


def half_a_run(tmp_path: Path, *settings: str) -> tuple[Path, Path]:
    """Make a run, remove its last checkpoint; return its file and the checkpoint that is left."""
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    run_here(run_file, *STEPS, *settings)
    out = run_file.parent / "out"
    (out / "step-000004").rename(out / "aside")
    return run_file, out / "step-000002"


@pytest.mark.parametrize("file", ["optim_states.pt", "model_states.pt"])
@pytest.mark.parametrize("is_universal", [False, True])
def test_a_pickle_that_would_execute_is_refused_and_not_executed(tmp_path, file, is_universal):
    run_file, step = half_a_run(tmp_path, "deepspeed.zero_stage=1")
    victim = tmp_path / "executed"

    def poison(path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=False)
        torch.save(state | {"evil": Execute(f"touch {victim}")}, path)

    name = next(p.relative_to(step).as_posix() for p in step.glob(f"deepspeed/*{file}"))
    rewrite(step, name, poison)
    if is_universal:  # as if it had been saved by more ranks
        pretend_more_ranks(step)
    with pytest.raises(ValueError, match=rf"{name}: names (posix|nt)\.system, wanted") as error:
        run_here(run_file, *STEPS, "deepspeed.zero_stage=1")
    assert "\n" not in str(error.value)
    assert not victim.exists()


def pretend_more_ranks(step: Path) -> None:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"world_size": 2}))

    rewrite(step, "state.json", change)


@pytest.mark.parametrize(
    "zero_stage, is_universal",
    [(0, False), (1, False), (2, False), (3, False), (1, True), (2, True), (3, True)],
)
def test_what_a_run_saved_is_read_as_weights_only(tmp_path, zero_stage, is_universal):
    stage = f"deepspeed.zero_stage={zero_stage}"
    run_file, step = half_a_run(tmp_path, stage)
    whole = losses(run_file.parent / "out")
    if is_universal:
        pretend_more_ranks(step)
    run_here(run_file, *STEPS, stage)
    assert losses(run_file.parent / "out") == whole


def test_the_switch_of_torch_is_set_inside_only(tmp_path, monkeypatch):
    from vchat.train.checkpoints.state_reading import read_weights_only

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save({"evil": Execute(f"touch {tmp_path / 'executed'}")}, tmp_path / "state.pt")
    with (
        pytest.raises(ValueError, match=r"state\.pt: names (posix|nt)\.system, wanted tensors"),
        read_weights_only(tmp_path),
    ):
        torch.load(tmp_path / "state.pt", weights_only=False)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert not (tmp_path / "executed").exists()


def test_a_name_that_no_listing_shows_is_refused_too(tmp_path):
    """A pickle can build the name of what it calls, so that no scan of the file finds it."""
    from vchat.train.checkpoints.state_reading import read_weights_only

    stack_global = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    (tmp_path / "state.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + stack_global)
    with pytest.raises(ValueError, match=str(tmp_path)), read_weights_only(tmp_path):
        torch.load(tmp_path / "state.pt", weights_only=False)
