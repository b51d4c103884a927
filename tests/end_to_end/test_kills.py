"""Kill the line at random moments (SIGKILL, whole process group), run the same command again: the
shards end with the same bytes, and the training ends with the same losses, as if undisturbed.

Long: `make soak`.
"""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import BIN, command_line, environment, losses

pytestmark = pytest.mark.soak

DATASETS = "llava,llava_dial,ocr_vqa,otter_mimicit_cgd"
STEPS = 40


def killed_until_done(command: list[str], *, longest_s: float, rng: random.Random) -> int:
    """Run a command again and again, killed after a random time, then let it end; count kills."""
    kills = 0
    while kills < 12:
        child = subprocess.Popen(
            command,
            env=environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = child.communicate(timeout=rng.uniform(0.1, longest_s))
            assert child.returncode == 0, said.decode()[-2000:]
            return kills
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(0.5)  # ranks that the launcher started in groups of their own notice and end
        kills += 1
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return kills


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".work" not in path.parts]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "data"
    command = [BIN / "vchat-prep", "sample-data", "--out", folder, "--images", "600", "--seed", "9"]
    subprocess.run(command, check=True, env=environment())
    return folder


def build_command(data: Path, out: Path) -> list[str]:
    words = [BIN / "vchat-prep", "build", "--datasets", DATASETS, "--data", data, "--out", out]
    words += ["--tokenizer", data / "tokenizer", "--workers", "2", "--shard-size", "200kB"]
    return [str(word) for word in [*words, "--image-size", "64", "--positions-per-image", "5"]]


@pytest.fixture(scope="module")
def shards(data) -> Path:
    out = data.parent / "shards"
    subprocess.run(build_command(data, out), check=True, env=environment())
    return out


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_build_ends_with_the_bytes_of_an_undisturbed_one(data, shards, tmp_path, seed):
    command = build_command(data, tmp_path / "shards")
    kills = killed_until_done(command, longest_s=3, rng=random.Random(seed))
    assert kills > 0
    assert digests(tmp_path / "shards") == digests(shards)


def run_command(shards: Path, out: Path) -> list[str]:
    settings = [f"data.shards={shards}", f"run.out={out}", f"run.steps={STEPS}"]
    settings += ["run.save_every=5", "run.eval_every=20", "run.log_every=1"]
    return command_line(Path("tiny.toml"), *settings, processes=2, launcher="deepspeed")


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
    kills = killed_until_done(command, longest_s=16, rng=random.Random(seed))
    assert kills > 0
    assert len(undisturbed) == STEPS
    assert losses(tmp_path / "run") == undisturbed
