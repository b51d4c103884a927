"""A build in the tokenizer's own chat template, and what reads such a set."""

import json
import shutil

import pytest

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice, TemplateChoice
from vchat.prep.pipeline.build import build_shards
from vchat.shards.format.open_shards import open_shards
from vchat.shards.inspect.verification import find_defects
from vchat.shards.text.template import TextRound
from vchat_testing.chat_shapes import chat_tokenizer
from vchat_testing.raw_data import write_llava


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A set whose end token is not the tokenizer's."""
    folder = tmp_path_factory.mktemp("chat_build")
    write_llava(folder / "data", count=12)
    chat_tokenizer(folder / "tokenizer", shape="llama_3")
    build_shards(
        Recipe(
            source=(SourceChoice(name="llava", concatenate=2),),
            data=str(folder / "data"),
            tokenizer=str(folder / "tokenizer"),
            out=str(folder / "out"),
            positions_per_image=5,
            image=ImagePolicy(size=24),
            template=TemplateChoice(name="chat", system="Be brief."),
        )
    )
    return open_shards(folder / "out")


def test_the_manifest_names_template_system_text_and_digest(shards):
    assert shards.manifest["template"] == {
        "name": "chat",
        "system": "Be brief.",
        "frame_version": 1,
    }
    assert shards.manifest["digests"]["template"] == shards.template.digest


def test_samples_are_rendered_by_the_chat_template(shards):
    tokenizer = shards.tokenizer()
    sample = shards.read_sample(0)
    text = tokenizer.decode(sample.ids.tolist())
    assert text.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n### Image 1:\n<image>\n\n"
    )
    assert text.endswith(f"{sample.rounds[-1].answer}<|eot_id|>")
    rounds = [
        TextRound(num_images=len(r.images), question=r.question, answer=r.answer)
        for r in sample.rounds
    ]
    assert sample.ids.tolist() == tokenizer.encode(shards.template.dialogue(rounds)).ids.tolist()


def test_verify_finds_nothing_wrong(shards):
    assert list(find_defects(shards, shard_done=lambda _: None)) == []


def test_another_chat_template_in_the_folder_is_refused(shards, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shards.folder, copy)
    config = copy / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings["chat_template"] = settings["chat_template"].replace("\n\n", "\n")
    config.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json has sha256 .* was changed"):
        _ = open_shards(copy).template
