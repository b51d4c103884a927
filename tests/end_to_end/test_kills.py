"""A training killed at random moments ends with the losses of an undisturbed one.

Long: `make soak`.
"""

import random
import subprocess
from pathlib import Path

import pytest

from vchat_testing.killing import build_command, kill_until_done, sample_data
from vchat_testing.training_runs import command_line, losses
from vchat_testing.warm import environment

pytestmark = pytest.mark.soak

STEPS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return sample_data(tmp_path_factory.mktemp("kills") / "data")


@pytest.fixture(scope="module")
def shards(data) -> Path:
    out = data.parent / "shards"
    subprocess.run(build_command(data, str(out)), check=True, env=environment())
    return out


def run_command(shards: Path, out: Path) -> list[str]:
    settings = [f"data.shards={shards}", f"run.out={out}", f"run.steps={STEPS}"]
    settings += ["run.save_every=5", "run.eval_every=20", "run.log_every=1"]
    return command_line(Path("tiny.toml"), *settings, processes=2, launcher="torchrun")


@pytest.fixture(scope="module")
def undisturbed(shards) -> list[float]:
    out = shards.parent / "run"
    subprocess.run(run_command(shards, out), check=True, env=environment())
    return losses(out)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_training_ends_with_the_losses_of_an_undisturbed_one(
    shards, undisturbed, tmp_path, seed
):
    command = run_command(shards, tmp_path / "run")
    kills = kill_until_done(command, longest_s=20, rng=random.Random(seed))
    assert kills > 0
    assert len(undisturbed) == STEPS
    assert losses(tmp_path / "run") == undisturbed
