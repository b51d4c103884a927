"""Every run that we ship is planned, builds its model and trains, with small parts in their place.

The parts have the make that the file asks for and are loaded from folders, as the real ones are.
"""

import dataclasses
import math
from pathlib import Path

import pytest

from vchat_testing.training_runs import losses, prepare_deepspeed, training_shards

WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
SMALL = {"num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": 300}
DECODERS = {
    "Llama-2": {"model_type": "llama", **SMALL},
    "Qwen2.5": {"model_type": "qwen2", **SMALL},
}
TOWERS = {
    "qwen-vl": {
        "model_type": "qwen_vl_visual",
        "num_hidden_layers": 1,
        "patch_width": 32,
        "num_table_positions": 4,
        "num_queries": 4,
        "resampler_head_width": 16,
    },
    "clip": {"model_type": "clip_vision_model", "num_hidden_layers": 1},
    "siglip": {"model_type": "siglip_vision_model", "num_hidden_layers": 1},
}
PICTURES = {"image_size": 32, "patch_size": 16}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return training_shards(tmp_path_factory.mktemp("shards"))


def shipped() -> list[str]:
    import vchat.train.config.runs

    return sorted(path.name for path in Path(vchat.train.config.runs.__path__[0]).glob("*.toml"))


def small_part(named: object, kinds: dict[str, dict], folder: Path, **sizes: int) -> str:
    """Save a small part of the kind that a run's setting names; returns its folder."""
    import transformers

    from vchat.model.towers.hugging_face import register_towers

    register_towers()
    kind = next(fields for word, fields in kinds.items() if word in Path(str(named)).name)
    config = transformers.AutoConfig.for_model(**kind, **WIDTHS, **sizes)
    auto = transformers.AutoModel if kinds is TOWERS else transformers.AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    return str(folder)


def with_small_parts(run: str, *, shards: Path, folder: Path):
    """The shipped run with small parts and steps, on toy shards."""
    from vchat.train.config.run import find_run_file, read_run

    config = read_run(find_run_file(Path(run)))
    model = config.model
    if isinstance(model.decoder, str):
        model = dataclasses.replace(
            model,
            decoder=small_part(model.decoder, DECODERS, folder / "decoder"),
            tower=small_part(model.tower, TOWERS, folder / "tower", **PICTURES),
        )
    return dataclasses.replace(
        config,
        model=model,
        data=dataclasses.replace(config.data, shards=str(shards), tokens_per_row=288),
        batch=dataclasses.replace(config.batch, rows_per_step=4),
        run=dataclasses.replace(config.run, out=folder / "out", steps=2, epochs=None),
    )


def planned_steps(config) -> int:
    """What `vchat-train plan` counts for two GPUs."""
    from vchat.train.forecast.forecast import Cluster, forecast_run

    cluster = Cluster(gpus=2, gpus_per_node=8, memory_gb=80.0, tflops=300.0, mfu=0.4)
    return forecast_run(config, cluster=cluster)["run"]["steps"]


def test_the_forecast_of_a_start_from_a_model_reads_no_weights(shards, tmp_path):
    prepare_deepspeed()
    from vchat.train.run.launch import run_training

    config = with_small_parts("visualchat-7b.toml", shards=shards, folder=tmp_path)
    run_training(config)
    model = dataclasses.replace(
        config.model, decoder=None, tower=None, start_from=tmp_path / "out" / "step-000002"
    )
    for file in (tmp_path / "out" / "step-000002" / "model").glob("*.safetensors"):
        file.unlink()
    assert planned_steps(dataclasses.replace(config, model=model)) == 2


@pytest.mark.parametrize("run", shipped())
def test_a_shipped_run_is_planned_and_takes_two_steps(run, shards, tmp_path):
    prepare_deepspeed()
    from vchat.train.checkpoints.checkpoint import open_checkpoint
    from vchat.train.run.launch import run_training

    config = with_small_parts(run, shards=shards, folder=tmp_path)
    assert planned_steps(config) == 2
    run_training(config)
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "out"))
    assert open_checkpoint(tmp_path / "out").step == 2
