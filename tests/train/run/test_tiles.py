"""Images cut into tiles, from training to chat."""

import shutil

import numpy as np
import pytest
import torch

from vchat_testing.toy import toy_sample, toy_shards
from vchat_testing.training_runs import losses, prepare_deepspeed, run_here, write_run

TILED = ["model.max_tiles=4", "model.image_size=16", "model.tower.patch_size=8"]
SETTINGS = [*TILED, "data.tokens_per_row=400", "data.images_per_row=16", "run.eval_every=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps, saved after each, on images of 40 x 32 pixels: 2 x 2 tiles of 16."""
    folder = tmp_path_factory.mktemp("tiles")
    shards = toy_shards(folder / "shards", num_samples=12, image_size=(40, 32))
    run_file = write_run(folder, shards=folder / "shards")
    run_here(run_file, *SETTINGS, "run.steps=2", "run.save_every=1")
    return shards, run_file, folder / "out"


def test_a_run_resumes_in_mid_epoch_with_equal_losses(run):
    _, run_file, out = run
    first = losses(out)
    shutil.rmtree(out / "step-000002")
    run_here(run_file, *SETTINGS, "run.steps=2", "run.save_every=1")
    assert losses(out) == first


def test_chat_asks_with_the_ids_and_pixels_that_training_saw(run):
    prepare_deepspeed()
    from vchat.shards.loading.loader import Loader
    from vchat.train.chat.chat_model import load_chat_model
    from vchat.train.config.run import read_run
    from vchat.train.engine.starting_model import read_sizes
    from vchat.train.run.data import plan_arguments

    shards, run_file, out = run
    chat_model, _ = load_chat_model(out, device="cpu")
    sizes = read_sizes(chat_model.model)
    config = read_run(run_file, overrides=SETTINGS)
    loader = Loader(
        shards,
        plan_arguments(config.data, seed=config.run.seed, sizes=sizes),
        rows_per_step=1,
        image_size=16,
    )
    batch = next(iter(loader))
    trained = batch.token_ids[batch.segment_ids == 1].tolist()

    number = int(batch.keys[0][0].partition("/")[2])
    sample = toy_sample(number, shards.tokenizer(), image_size=(40, 32))
    images = [chat_model.decode_picture(image.data) for image in sample.images]
    assert [len(image) for image in images] == [5, 5]
    assert [chat_model.num_inputs(image.data) for image in sample.images] == [5, 5]
    first = sample.rounds[0]
    parts = chat_model.template.opening()
    parts += chat_model.template.round(first.question, None, num_images=1, first_image=1)
    asked = chat_model.prompt_ids(parts, inputs=[len(images[0])])
    assert asked == trained[: len(asked)]
    assert asked.count(chat_model.tokenizer.image_id) == 5 * 5
    assert torch.equal(torch.cat(images), batch.pixels[:10])


@pytest.mark.parametrize("remembered", [0, 1 << 20])
def test_a_dialogue_about_cut_images_answers_the_same_with_and_without_reuse(run, remembered):
    prepare_deepspeed()
    from dataclasses import replace

    from vchat.train.chat.chat_model import load_chat_model
    from vchat.train.chat.generation import Sampling
    from vchat.train.chat.image_cache import ImageStateCache
    from vchat.train.chat.session import ChatSession
    from vchat_testing.toy import toy_image

    chat_model, _ = load_chat_model(run[2], device="cpu")
    chat_model = replace(chat_model, image_cache=ImageStateCache(max_bytes=remembered))
    session = ChatSession(chat_model, sampling=Sampling(max_new_tokens=3))
    images = [chat_model.decode_picture(toy_image(n).data) for n in range(2)]
    "".join(session.ask("What color is square 1?", images=images[:1]))
    "".join(session.ask("What color is square 2?", images=images[1:]))
    assert session.num_images == 2
    fed = torch.tensor([session.ids])
    expected = chat_model.model(fed, torch.cat(images)).logits[:, -1]
    logits, _ = chat_model.extend(None, session.ids, images)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_larger_picture_is_first_scaled_to_the_size_of_the_shards_images(run):
    prepare_deepspeed()
    import io

    from PIL import Image

    from vchat.train.chat.chat_model import load_chat_model

    chat_model, _ = load_chat_model(run[2], device="cpu")
    assert chat_model.stored_side == 32
    noise = np.random.default_rng(0).integers(0, 255, (128, 160, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    assert chat_model.decode_picture(file.getvalue()).shape == (5, 3, 16, 16)
    assert chat_model.num_inputs(file.getvalue()) == 5


def test_an_export_says_how_images_are_cut(run, tmp_path):
    prepare_deepspeed()
    import json

    from transformers import CLIPImageProcessor

    from vchat.train.checkpoints.checkpoint import open_checkpoint
    from vchat.train.convert.export import export_checkpoint

    export_checkpoint(open_checkpoint(run[2]), tmp_path / "plain", precision=None)
    said = json.loads((tmp_path / "plain" / "preprocessor_config.json").read_text())
    assert said["tiling"] == {"max_tiles": 4, "side": 16, "stored_side": 32}
    CLIPImageProcessor.from_pretrained(tmp_path / "plain")
    assert "decode_tiles_into" in (tmp_path / "plain" / "README.md").read_text()


def test_tiles_of_a_model_that_reverses_its_images_are_refused(run, tmp_path):
    prepare_deepspeed()
    from vchat.train.chat.chat_model import load_chat_model
    from vchat.train.config.model import ModelConfig
    from vchat.train.engine.starting_model import build_model

    model = load_chat_model(run[2], device="cpu")[0].model
    model.config.max_tiles, model.config.image_order = 0, "reversed"
    model.save_pretrained(tmp_path)
    config = ModelConfig(start_from=tmp_path, max_tiles=4)
    with pytest.raises(ValueError, match=r"max_tiles is 4 and image_order is .reversed."):
        build_model(config, image_token_id=7, num_ids=300, seed=0)
