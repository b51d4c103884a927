"""The launch examples really run: their own words, with two agents on this machine for two nodes.

A real Slurm runs the job where it is installed (see `slurm_cluster.py`). Besides, its commands are
stood in for by scripts of a few lines that start and signal processes as the real ones do. Long
tests: `make soak`.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat_testing.slurm_cluster import is_installed, squeue, two_nodes
from vchat_testing.training_runs import (
    BIN,
    log_of,
    losses,
    run_here,
    training_shards,
    write_run,
)
from vchat_testing.warm import environment, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 60
SETTINGS = [f"run.steps={STEPS}", "run.eval_every=0", "run.save_every=1000"]

STAND_INS = {
    "srun": """
        echo $$ > "$STATE/step"
        while [[ $1 == --* ]]; do shift; done
        for node in 1 2; do "$@" & tasks+=($!); done
        below() { for child in $(pgrep -P "$1"); do below "$child"; echo "$child"; done; }
        trap 'kill -USR1 "${tasks[@]}" $(for task in "${tasks[@]}"; do below "$task"; done)' USR1
        for task in "${tasks[@]}"; do
            while kill -0 "$task" 2>/dev/null; do wait "$task"; ended=$?; done
            [ "$ended" = 0 ] || code=$ended
        done
        exit "${code:-0}"
    """,
    "scancel": 'kill -USR1 "$(cat "$STATE/step")"',
    "scontrol": 'if [ "$1" = requeue ]; then touch "$STATE/requeued"; else echo 127.0.0.1; fi',
}


def job() -> dict:
    return next(
        one
        for one in yaml.safe_load_all((EXAMPLES / "k8s.yaml").read_text())
        if one["kind"] == "Job"
    )


def test_the_slurm_script_is_sound_bash():
    subprocess.run(["bash", "-n", EXAMPLES / "slurm.sbatch"], check=True)


def test_the_kubernetes_manifest_has_the_fields_that_kubernetes_knows():
    manifest = list(yaml.safe_load_all((EXAMPLES / "k8s.yaml").read_text()))
    version = kubernetes_validate.latest_version()
    for part in manifest:
        kubernetes_validate.validate(part, version, strict=True)
    manifest[1]["spec"]["template"]["spec"]["subdomian"] = "vchat"
    with pytest.raises(kubernetes_validate.ValidationError, match="subdomian"):
        kubernetes_validate.validate(manifest[1], version, strict=True)


def test_the_kubernetes_job_starts_as_many_agents_as_they_expect():
    spec = job()["spec"]
    command = spec["template"]["spec"]["containers"][0]["args"][0]
    assert spec["completionMode"] == "Indexed"
    assert f"--nnodes {spec['completions']} " in command
    assert spec["parallelism"] == spec["completions"]
    assert f"-0.{spec['template']['spec']['subdomain']}:" in command


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.glob("*.sbatch")) + sorted(EXAMPLES.glob("*.yaml"))
)
def test_an_example_names_runs_that_are_shipped(file):
    named = set(re.findall(r"[\w.-]+\.toml", file.read_text())) - {"RUN.toml"}
    shipped = {path.name for path in (EXAMPLES.parent / "train/config/runs").glob("*.toml")}
    assert named
    assert named <= shipped


@pytest.fixture
def run_file(tmp_path) -> Path:
    return write_run(tmp_path / "run", shards=training_shards(tmp_path / "shards"))


@pytest.fixture
def wanted(tmp_path, run_file) -> list[float]:
    alone = write_run(tmp_path / "alone", shards=tmp_path / "shards")
    run_here(alone, *SETTINGS)
    return losses(tmp_path / "alone" / "out")


def wait_until(claim: Callable[[], bool], *, longest_s: float) -> None:
    deadline = time.monotonic() + longest_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_lines(log: Path, count: int) -> None:
    wait_until(lambda: log.exists() and len(log.read_bytes().splitlines()) >= count, longest_s=300)


@pytest.mark.soak
def test_the_slurm_job_saves_before_its_time_limit_and_ends_when_queued_again(
    run_file, wanted, tmp_path
):
    stand_ins, out = tmp_path / "bin", run_file.parent / "out"
    stand_ins.mkdir()
    for name, words in STAND_INS.items():
        (stand_ins / name).write_text(f"#!/bin/bash\n{words}\n")
        (stand_ins / name).chmod(0o755)
    surroundings = environment() | {
        "PATH": f"{stand_ins}:{BIN}:{os.environ['PATH']}",
        "STATE": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    flags = [word for setting in SETTINGS for word in ("--set", setting)]
    command = ["bash", EXAMPLES / "slurm.sbatch", run_file, *flags]
    with subprocess.Popen(command, env=surroundings) as batch:
        wait_for_lines(out / "log.jsonl", 5)
        batch.send_signal(signal.SIGUSR1)
        assert batch.wait(300) == 0
    assert (tmp_path / "requeued").exists()
    stopped_at = open_checkpoint(out).step
    assert 5 <= stopped_at < STEPS
    surroundings["SLURM_RESTART_COUNT"] = "1"
    subprocess.run(command, env=surroundings, check=True, timeout=500)
    assert [line["step"] for line in log_of(out)] == list(range(1, STEPS + 1))
    assert losses(out) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.soak
def test_the_job_of_a_real_slurm_saves_when_it_is_warned_and_ends_when_queued_again(
    run_file, wanted, tmp_path
):
    if not is_installed():
        pytest.skip("Slurm is not installed here (Debian: slurm-wlm)")
    out, said = run_file.parent / "out", tmp_path / "vchat.log"
    flags = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ["sbatch", "--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={said}"]
    with two_nodes(tmp_path / "slurm") as slurm:
        surroundings = environment() | slurm | {"PATH": f"{BIN}:{slurm['PATH']}"}
        command = [*words, EXAMPLES / "slurm.sbatch", run_file, *flags]
        subprocess.run(command, env=surroundings, check=True)
        wait_for_lines(out / "log.jsonl", 5)
        job_id = squeue(slurm, "%i")
        warn = ["scancel", "--batch", "--signal=USR1", job_id]
        subprocess.run(warn, env=surroundings, check=True)
        wait_until(lambda: not squeue(slurm, "%i"), longest_s=200)
        told = ["scontrol", "show", "job", job_id]
        job = subprocess.run(told, env=surroundings, capture_output=True, text=True).stdout
    assert "JobState=COMPLETED" in job, said.read_text()
    assert "Restarts=1" in job
    stopped_at = re.findall(r"going on after step (\d+)", said.read_text())
    assert len(stopped_at) == 1
    assert 5 <= int(stopped_at[0]) < STEPS
    assert [line["step"] for line in log_of(out)] == list(range(1, STEPS + 1))
    assert losses(out) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.soak
def test_the_kubernetes_pods_save_when_one_of_them_is_deleted(run_file, wanted):
    words = job()["spec"]["template"]["spec"]["containers"][0]["args"][0]
    flags = " ".join(f"--set {setting}" for setting in SETTINGS)
    for found, here in (
        ("vchat-0.vchat:29400", f"127.0.0.1:{free_port()}"),
        ("--nproc-per-node 8", "--nproc-per-node 1"),
        ("visualchat-13b-448.toml", str(run_file)),
        ("--set data.shards=s3://bucket/mix-448 --set run.out=/out/13b", flags),
        ("/out/13b/finished", str(run_file.parent / "out" / "finished")),
    ):
        assert found in words
        words = words.replace(found, here)
    surroundings = environment() | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    out = run_file.parent / "out"
    pods = [subprocess.Popen(["bash", "-c", words], env=surroundings) for _ in range(2)]
    wait_for_lines(out / "log.jsonl", 5)
    pods[1].send_signal(signal.SIGTERM)
    assert [pod.wait(300) for pod in pods] == [75, 75]  # saved, but not finished
    assert 5 <= open_checkpoint(out).step < STEPS
    pods = [subprocess.Popen(["bash", "-c", words], env=surroundings) for _ in range(2)]
    assert [pod.wait(500) for pod in pods] == [0, 0]
    assert losses(out) == pytest.approx(wanted, abs=1e-3)
