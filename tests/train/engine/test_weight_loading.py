"""Pretrained parts from folders: under ZeRO-3 no rank holds a model whole; losses are the same."""

import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from vchat_testing.training_runs import (
    BIN,
    losses,
    prepare_deepspeed,
    run_here,
    run_together,
    training_shards,
    write_run,
)
from vchat_testing.warm import environment, free_port

pytestmark = pytest.mark.xdist_group("launches")

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,  # fewer than the tokenizer has: the table grows
}
WIDE = DECODER | {"hidden_size": 320, "num_hidden_layers": 1}
"""Its maps are large enough to be split: DeepSpeed keeps tensors below 10^5 numbers whole."""

BIG = DECODER | {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
TOWER = {
    "image_size": 32,
    "patch_size": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def save_parts(folder: Path, *, decoder: dict[str, int]) -> list[str]:
    """Write a decoder and a tower as Hugging Face folders; returns the settings that name them."""
    prepare_deepspeed()
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**decoder)).save_pretrained(folder / "decoder")
    CLIPVisionModel(CLIPVisionConfig(**TOWER)).save_pretrained(folder / "tower")
    return [f"model.decoder={folder / 'decoder'}", f"model.tower={folder / 'tower'}"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("shards"))


ADAPTED = ["model.lora.rank=2", 'train.parts=["embeddings", "projection"]']
KINDS = {
    "plain": [],
    "lora": ADAPTED,
    "dora": [*ADAPTED, "model.lora.dora=true"],
    "four_bit": [*ADAPTED, "model.lora.four_bit=true"],
}


def runs_of_kinds(kinds, folder, *, shards):
    """For each kind, a run under ZeRO-3 and its settings, with parts from folders."""
    shared = [*save_parts(folder, decoder=WIDE), "run.steps=4", "run.save_every=2"]
    jobs = {}
    for kind in kinds:
        run_file = write_run(folder / "shares" / kind, shards=shards)
        jobs[kind] = (run_file, [*shared, *KINDS[kind], "deepspeed.zero_stage=3"])
    return jobs


def start_from(trained, job, folder, *, shards):
    """The run and its settings, but for the model, which is a saved one."""
    run_file = write_run(folder / "shares" / "from trained", shards=shards)
    without_parts = re.sub(r"\[model.*(?=\[train\])", "", run_file.read_text(), flags=re.DOTALL)
    run_file.write_text(without_parts)
    settings = [one for one in job[1] if not one.startswith("model.")]
    return run_file, [*settings, f"model.start_from={trained}"]


def check_same_when_whole(jobs, folder, *, shards):
    """The losses of the runs are those of one process at ZeRO 0."""
    for name, (run_file, settings) in jobs.items():
        whole = write_run(folder / "whole" / name, shards=shards)
        whole.write_text(run_file.read_text().replace("/shares/", "/whole/"))
        run_here(whole, *settings, "deepspeed.zero_stage=0")
        expected = pytest.approx(losses(whole.parent / "out"), abs=1e-5)
        assert losses(run_file.parent / "out") == expected, name


def test_a_run_from_folders_is_equal_partitioned_and_whole(shards, tmp_path):
    jobs = runs_of_kinds(["dora"], tmp_path, shards=shards)
    trained = jobs["dora"][0].parent / "out" / "step-000004"
    jobs["from trained"] = start_from(trained, jobs["dora"], tmp_path, shards=shards)
    run_together(list(jobs.values()), processes=2)
    check_same_when_whole(jobs, tmp_path, shards=shards)


@pytest.mark.soak
def test_a_partitioned_run_resumes_as_if_it_had_not_stopped(shards, tmp_path):
    jobs = runs_of_kinds(list(KINDS), tmp_path, shards=shards)
    run_together(list(jobs.values()), processes=2)
    for run_file, _ in jobs.values():
        shutil.rmtree(run_file.parent / "out" / "step-000004")
    run_together(list(jobs.values()), processes=2)
    check_same_when_whole(jobs, tmp_path, shards=shards)


def test_no_rank_holds_a_large_decoder_whole_even_with_adapters(shards, tmp_path):
    run_file = write_run(tmp_path, shards=shards)
    shared = ["deepspeed.zero_stage=3", 'train.parts=["projection"]', "model.lora.rank=2"]
    small = save_parts(tmp_path / "small", decoder=DECODER)
    big = save_parts(tmp_path / "big", decoder=BIG)
    start = ["--nproc-per-node", "2", "--master-port", free_port()]
    jobs = [json.dumps([*shared, *settings]) for settings in (small, big)]
    command = [BIN / "torchrun", *start, __file__, run_file, *jobs]
    surroundings = environment() | {
        "PYTHONPATH": str(Path(__file__).parents[3] / "src"),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed leaves the process, as with big tensors
    }
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    whole = measured[0]["whole_bytes"]
    assert whole > 100e6
    for rank in measured:
        assert 0.45 < rank["share_bytes"] / whole < 0.55
        assert rank["peak_bytes"] < 0.75 * whole, measured


class AnonymousMemory:
    """The most memory of this process, files mapped from disk apart, while the block lasts."""

    def __enter__(self) -> "AnonymousMemory":
        self.before = self.peak = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.peak = max(self.peak, self._now())
            time.sleep(0.002)

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")


def measure(run_file: Path, *jobs: list[str]) -> None:
    """Open runs one after the other as one of two ranks; write down what the last one held.

    The ones before it load the libraries, which take memory too.
    """
    prepare_deepspeed()
    from vchat.train.checkpoints.background import Background
    from vchat.train.config.run import read_run
    from vchat.train.engine.processes import RankShare, connect_processes
    from vchat.train.run.prepare import prepare_run

    rank, world_size = connect_processes()
    for settings in jobs:
        config = read_run(run_file, overrides=settings)
        with AnonymousMemory() as memory:
            share = RankShare(rank=rank, world_size=world_size)
            run = prepare_run(config, share, background=Background())
    parameters = list(run.engine.module.parameters())
    facts = {
        "whole_bytes": sum(p.ds_numel * p.element_size() for p in parameters),
        "share_bytes": sum(p.ds_tensor.numel() * p.element_size() for p in parameters),
        "peak_bytes": memory.peak - memory.before,
    }
    (run_file.parent / f"rank-{rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    import sys

    measure(Path(sys.argv[1]), *[json.loads(job) for job in sys.argv[2:]])
