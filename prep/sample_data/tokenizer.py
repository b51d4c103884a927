"""A byte-level BPE tokenizer, trained on the texts of the sample world.

It is equal for every seed, so models of different sample worlds can be compared. It encodes any
text, but only words of this world are single tokens. A header of the template is one token too,
which keeps training short.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from vchat.base.files import write_atomically
from vchat.prep.sample_data import questions
from vchat.prep.sample_data.draws import Draws
from vchat.prep.sample_data.walks import draw_walk
from vchat.prep.sample_data.world import CHANGES, draw_cover, draw_pair, draw_scene
from vchat.shards.text.template import Text, TextRound, VisualChatTemplate

BEGIN, END = "<s>", "</s>"
MOST_IDS = 1024
COPIES = 16
"""How often each text counts; a piece becomes one token only if it occurs more than once."""

PIECES = "|".join(
    (
        r"\n*### [A-Za-z]+( [0-9])?:\n+",  # a header of the template, with the lines around it
        r" ?[Ii]mage [0-9]",
        r" ?([Tt]op|[Bb]ottom) (left|right)",
        r" ?[A-Za-z]+",
        r" ?[0-9]",
        r" ?[^\sA-Za-z0-9]+",
        r"\s+",
    )
)
"""Merges never cross a piece. A place and the name of an image are one piece, so one token."""


def write_tokenizer(folder: Path) -> None:
    """Train, and write a folder as Hugging Face lays it out; always the same files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_IDS,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    distinct = sorted({*world_texts(), *template_texts()})
    tokenizer.train_from_iterator(distinct * COPIES, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }
    special = {"bos_token": BEGIN, "eos_token": END}
    for name, text in (
        ("tokenizer.json", tokenizer.to_str(pretty=True)),
        ("tokenizer_config.json", json.dumps(config, indent=1)),
        ("special_tokens_map.json", json.dumps(special, indent=1)),
    ):
        with write_atomically(folder / name) as file:
            file.write(text.encode())


def world_texts() -> list[str]:
    """Return questions and answers about so many pictures that every word occurs."""
    asked: list[questions.QuestionAnswer] = []
    for i in range(500):
        draws = Draws("tokenizer", i)
        scene, cover = draw_scene(draws, number=draws.between(1, 4)), draw_cover(draws)
        pair = draw_pair(draws, change=draws.pick(CHANGES))
        walk = draw_walk(draws, steps=5)
        asked += questions.dialogue_about(scene, draws)
        asked += [questions.whole_picture(scene), questions.list_of_shapes(scene)]
        asked += [questions.comparison_of(scene, draws), questions.describe_image(pair, 1 + i % 2)]
        asked += [questions.title_of(cover), questions.genre_of(cover)]
        asked += [questions.which_image(pair, each) for each in pair.odd_things()]
        asked += [questions.what_changed(pair), questions.color_in_image(pair, draws)]
        asked += [walk.where_first(), walk.where_last(), walk.what_happens(), walk.story()]
    return [text for question_and_answer in asked for text in question_and_answer]


def template_texts() -> list[str]:
    """Return the running text of dialogues with up to eight images, as the template writes it."""
    rounds = [TextRound(num_images=1, question="Q", answer="A") for _ in range(8)]
    rounds += [TextRound(num_images=n, question="Q", answer="A") for n in (0, 2, 8)]
    texts = [""]
    for part in VisualChatTemplate().dialogue(rounds):
        if isinstance(part, Text) and not part.supervised:
            texts[-1] += part.text
        else:
            texts.append("")
    return texts
