"""After `data.exclude` changed, finished steps are still told as they were made."""

import json
import shutil
from pathlib import Path

import pytest

from vchat.train.checkpoints.exclude_lists import EXCLUDE_FILE
from vchat.train.config.run import read_run
from vchat.train.forecast.forecast import plan_run
from vchat.train.run.data import read_exclude_list
from vchat.train.step.tally import hash_key
from vchat.train.where.exclude_lists import lists_of_run
from vchat.train.where.lineage import list_step_samples
from vchat_testing.training_runs import (
    log_of,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def _quiet_deepspeed():
    prepare_deepspeed()


class ExcludingRun:
    """A run whose list of excluded keys is changed between its launches."""

    def __init__(self, folder: Path):
        self.out, self.keys = folder / "out", folder / "keys.txt"
        self.file = write_run(folder, shards=training_shards(folder / "shards", num_train=12))
        self.settings = (
            f"run.steps={STEPS}",
            "run.save_every=1",
            "run.eval_every=0",
            f"data.exclude={self.keys}",
        )

    def exclude(self, *keys: str) -> None:
        self.keys.write_text("".join(f"{key}\n" for key in keys))

    def run(self) -> None:
        run_here(self.file, *self.settings)

    def go_back(self, *, epoch: int) -> int:
        """Remove what follows the end of an epoch; returns the last step that stays."""
        for folder in sorted(self.out.glob("step-*"), reverse=True):
            loader = json.loads((folder / "state.json").read_text())["loader"]
            if (loader["epoch"], loader["position"]) == (epoch + 1, 0):
                return int(folder.name.removeprefix("step-"))
            shutil.rmtree(folder)
        raise AssertionError(f"no checkpoint at the end of epoch {epoch}")

    def told(self, step: int) -> tuple[str, set[str]]:
        """What `vchat-train where` says of a step: the sum of its samples' hashes, and the keys."""
        config = read_run(self.file, overrides=self.settings)
        history = lists_of_run(config.run.out, read_exclude_list(config.data))
        _, _, data = plan_run(config, num_processes=1, exclude_history=history)
        keys = [one.key for one in list_step_samples(data, step=step, num_processes=1)]
        return f"{sum(map(hash_key, keys)):013x}", set(keys)

    def made(self) -> list[str]:
        return [str(line["sample_sum"]) for line in log_of(self.out)]


def test_finished_steps_are_told_as_they_were_made(tmp_path: Path, capsys):
    run = ExcludingRun(tmp_path)
    run.exclude("toy/train/3", "toy/train/5", "toy/none")
    run.run()
    assert "1 of 3 keys are of no sample in these shards: toy/none\n" in capsys.readouterr().err
    run.exclude("toy/train/7", "toy/train/8", "toy/train/9")
    assert [run.told(step)[0] for step in range(1, STEPS + 1)] == run.made()

    last = run.go_back(epoch=0)
    (run.out / "log.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in log_of(run.out)[:last])
    )
    assert "toy/train/3" in {key for n in range(last + 1, STEPS + 1) for key in run.told(n)[1]}
    run.run()
    told = [run.told(step) for step in range(1, STEPS + 1)]
    assert [sums for sums, _ in told] == run.made()
    assert not {"toy/train/3", "toy/train/5"} & set.union(*(keys for _, keys in told[:last]))
    assert not {"toy/train/7", "toy/train/8"} & set.union(*(keys for _, keys in told[last:]))

    run.exclude()
    (run.out / EXCLUDE_FILE).unlink()  # as on a host that fetched its checkpoint from a mirror
    assert [run.told(step) for step in range(1, STEPS + 1)] == told


def test_a_run_that_kept_no_list_is_told_with_a_warning(tmp_path: Path, caplog):
    assert lists_of_run(tmp_path, ("a",)).lists == ((0, ("a",)),)
    assert not caplog.messages
    (tmp_path / "log.jsonl").write_text('{"step": 1, "epoch": 2}\n')
    assert lists_of_run(tmp_path, ("a",)).lists == ((0, ("a",)),)
    assert "did not keep data.exclude" in caplog.messages[0]
