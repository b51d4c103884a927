"""Runs with adapters: what a checkpoint holds, on one process and on two, and what reads it."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from vchat_testing.training_runs import (
    losses,
    prepare_deepspeed,
    run_here,
    run_together,
    training_shards,
    write_run,
)

pytestmark = pytest.mark.xdist_group("launches")

LORA = [
    "model.lora.rank=2",
    'train.parts=["embeddings", "projection"]',
    "run.eval_every=0",
    "run.steps=4",
    "run.save_every=2",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def adapted_out(shards, tmp_path_factory):
    """The folder of a run with adapters on decoder and tower, of one process."""
    folder = tmp_path_factory.mktemp("run")
    run_here(write_run(folder, shards=shards), *LORA, "model.lora.tower=true")
    return folder / "out"


def names_in(file):
    with safe_open(file, "pt") as opened:
        return set(opened.keys())


def frozen_files(out):
    return sorted((out / "frozen").iterdir())


def test_a_checkpoint_holds_only_what_is_trained_and_refers_to_the_rest(adapted_out):
    trained = names_in(adapted_out / "step-000004" / "model" / "trained.safetensors")
    assert all(
        "lora_" in name or "embed_tokens" in name or name.startswith("projection")
        for name in trained
    )
    assert any(name.startswith("tower") for name in trained)
    (frozen,) = frozen_files(adapted_out)
    assert any("q_proj.base_layer.weight" in name for name in names_in(frozen))
    for step in ("step-000002", "step-000004"):
        files = json.loads((adapted_out / step / "files.json").read_text())
        assert files[f"../frozen/{frozen.name}"]["sha256"] == frozen.stem
        assert "model/model.safetensors" not in files


def test_chat_answers_with_a_checkpoint_of_adapters(adapted_out):
    prepare_deepspeed()
    from vchat.train.chat.chat_model import load_chat_model
    from vchat.train.chat.generation import Sampling
    from vchat.train.chat.session import ChatSession

    chat_model, _ = load_chat_model(adapted_out, device="cpu")
    assert chat_model.model.config.adapters["rank"] == 2
    session = ChatSession(chat_model, sampling=Sampling(max_new_tokens=4))
    answer = "".join(session.ask("What color?"))
    chat_model.model.merge()
    merged = ChatSession(chat_model, sampling=Sampling(max_new_tokens=4))
    assert "".join(merged.ask("What color?")) == answer


def test_an_export_has_the_adapters_merged_and_computes_the_same(adapted_out, tmp_path):
    prepare_deepspeed()
    import torch

    from vchat.train.checkpoints.checkpoint import open_checkpoint
    from vchat.train.convert.export import export_checkpoint
    from vchat.train.engine.starting_model import load_model

    export_checkpoint(open_checkpoint(adapted_out), tmp_path / "plain", precision=None)
    plain, adapted = load_model(tmp_path / "plain"), load_model(adapted_out / "step-000004")
    assert (plain.config.adapters, (tmp_path / "plain" / "frozen").exists()) == (None, False)
    assert not [name for name, _ in plain.named_parameters() if "lora" in name or "base" in name]
    ids = torch.arange(20)[None]
    expected = adapted.eval()(ids).logits
    torch.testing.assert_close(plain.eval()(ids).logits, expected, atol=2e-5, rtol=1e-4)


def test_a_checkpoint_without_its_frozen_weights_is_an_error_that_names_them(adapted_out, tmp_path):
    prepare_deepspeed()
    from vchat.train.checkpoints.checkpoint import open_checkpoint

    shutil.copytree(adapted_out / "step-000004", tmp_path / "step-000004")
    with pytest.raises(ValueError, match=r"\.\./frozen/[0-9a-f]{64}\.safetensors is missing"):
        open_checkpoint(tmp_path / "step-000004")


@pytest.mark.parametrize("kind", ["dora", "four_bit"])
def test_a_run_resumes_with_exactly_equal_losses_under(shards, tmp_path, kind):
    run_file, out = write_run(tmp_path, shards=shards), tmp_path / "out"
    settings = [*LORA, f"model.lora.{kind}=true", "model.lora.dropout=0.1"]
    run_here(run_file, *settings, "train.gradient_checkpointing=true")
    first, files = losses(out), frozen_files(out)
    shutil.rmtree(out / "step-000004")
    run_here(run_file, *settings, "train.gradient_checkpointing=true")
    assert losses(out) == first
    assert frozen_files(out) == files


def test_a_tied_head_stays_tied_when_its_table_is_trained_and_the_rest_is_frozen(shards, tmp_path):
    run_file = write_run(tmp_path, shards=shards)
    tied = ["model.decoder.tie_word_embeddings=true", "deepspeed.zero_stage=3"]
    run_here(run_file, *LORA, *tied)
    from vchat.train.engine.starting_model import load_model

    before, after = (load_model(tmp_path / "out" / f"step-00000{step}") for step in (2, 4))
    assert after.get_output_embeddings().weight is after.get_input_embeddings().weight
    assert not after.get_input_embeddings().weight.equal(before.get_input_embeddings().weight)
    assert not any("lm_head" in name for name in names_in(frozen_files(tmp_path / "out")[0]))


def test_two_processes_have_the_losses_of_one_at_zero_2_and_3(shards, tmp_path, adapted_out):
    jobs = []
    for stage in (2, 3):
        run_file = write_run(tmp_path / str(stage), shards=shards)
        jobs.append((run_file, [*LORA, "model.lora.tower=true", f"deepspeed.zero_stage={stage}"]))
    jobs += [(jobs[1][0], [*jobs[1][1], "run.keep_last=0"])]  # finds its end, trains no more
    run_together(jobs, processes=2)
    for stage in (2, 3):
        out = tmp_path / str(stage) / "out"
        assert losses(out) == pytest.approx(losses(adapted_out), abs=2e-5)
        assert names_in(frozen_files(out)[0]) == names_in(frozen_files(adapted_out)[0])
        assert frozen_files(out)[0].name == frozen_files(adapted_out)[0].name


def test_a_part_with_adapters_cannot_be_trained_itself(shards, tmp_path):
    run_file = write_run(Path(tmp_path), shards=shards)
    with pytest.raises(ValueError, match=r"model.lora adapts the decoder: leave it out"):
        run_here(run_file, "model.lora.rank=2", "run.steps=1")
