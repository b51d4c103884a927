"""Over-long dialogues are cut between rounds and keep the images that their rounds need."""

from dataclasses import replace

import pytest

from vchat.prep.tasks.assemble import Assembler, PreparedRecord
from vchat.shards.format.record import ImageRef, Record, Round
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import VisualChatTemplate
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.chat_shapes import chat_tokenizer
from vchat_testing.toy import toy_image, toy_tokenizer

PER_IMAGE = 17


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return TextTokenizer.load(toy_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def prepare_record(key, rounds):
    """Return a record; `rounds` are `(image numbers, question, answer)`."""
    refs = {n: ImageRef(key=f"toy:{n}", file=f"{n}.jpg") for images, _, _ in rounds for n in images}
    record = Record(
        key=key,
        source="toy",
        rounds=tuple(
            Round(images=tuple(refs[n] for n in images), question=question, answer=answer)
            for images, question, answer in rounds
        ),
        licence="",
        file="f",
        record_id=key,
    )
    return PreparedRecord(
        record=record, images=tuple(toy_image(n) for images, _, _ in rounds for n in images)
    )


def assemble(tokenizer, records, *, max_tokens, template=None):
    """Return the samples of one dialogue, and reasons by record key."""
    assembler = Assembler(
        tokenizer=tokenizer,
        template=template or VisualChatTemplate(system="Hi.\n\n"),
        max_tokens=max_tokens,
        positions_per_image=PER_IMAGE,
    )
    dialogue = assembler.assemble(records, split="train")
    rejected = {record.key: why.reason for record, why in dialogue.rejected}
    outcomes = [record.key for record in dialogue.used] + list(rejected)
    assert sorted(outcomes) == sorted(one.record.key for one in records)
    return list(dialogue.samples), rejected


def length(sample):
    return len(sample.ids) + len(sample.images) * (PER_IMAGE - 1)


LONG = [
    prepare_record(
        "toy/a", [([0], "One?", "It is red."), ([1], "Two?", "Green."), ([], "Both?", "No.")]
    ),
    prepare_record("toy/b", [([2], "Three?", "Blue."), ([], "Why?", "It is.")]),
]


def answers(samples):
    return [[round_.answer for round_ in sample.rounds] for sample in samples]


def test_a_dialogue_that_fits_is_one_sample(tokenizer):
    (sample,), rejected = assemble(tokenizer, LONG, max_tokens=10_000)
    assert rejected == {}
    assert sample.key == "toy/a"
    assert [round_.images for round_ in sample.rounds] == [(0,), (1,), (), (2,), ()]
    assert [(one.key, one.first_round, one.num_rounds) for one in sample.records] == [
        ("toy/a", 0, 3),
        ("toy/b", 3, 2),
    ]


def test_every_length_limit_keeps_all_rounds_or_rejects_the_record(tokenizer):
    (whole,), _ = assemble(tokenizer, LONG, max_tokens=10_000)
    said = [round_.answer for round_ in whole.rounds]
    counts = set()
    for limit in range(40, length(whole) + 1):
        samples, rejected = assemble(tokenizer, LONG, max_tokens=limit)
        assert all(length(sample) <= limit for sample in samples)
        kept = said[3 * ("toy/a" in rejected) : len(said) - 2 * ("toy/b" in rejected)]
        assert [answer for part in answers(samples) for answer in part] == kept
        assert set(rejected.values()) <= {"too_long"}
        counts.add(len(samples))
    assert counts >= {0, 1, 2, 3}


def test_a_part_shows_again_what_its_record_has_shown(tokenizer):
    (whole,), _ = assemble(tokenizer, LONG[:1], max_tokens=10_000)
    samples, _ = assemble(tokenizer, LONG[:1], max_tokens=length(whole) - 1)
    assert [sample.key for sample in samples] == ["toy/a", "toy/a#1"]
    first, second = samples
    assert [image.key for image in first.images] == ["toy:0", "toy:1"]
    assert [image.key for image in second.images] == ["toy:0", "toy:1"]
    assert second.rounds[0].images == (0, 1)
    assert second.rounds[0].question == "Both?"
    assert [(one.first_round, one.num_rounds) for one in second.records] == [(0, 1)]


def test_a_part_that_starts_with_another_record_shows_no_earlier_image(tokenizer):
    records = [LONG[0], prepare_record("toy/c", [([], "No picture?", "None.")])]
    (whole,), _ = assemble(tokenizer, records, max_tokens=10_000)
    samples, _ = assemble(tokenizer, records, max_tokens=length(whole) - 1)
    assert samples[-1].records[0].key == "toy/c"
    assert samples[-1].images == ()


def test_an_answer_is_never_cut(tokenizer):
    record = prepare_record("toy/long", [([0], "Q?", "word " * 300)])
    samples, rejected = assemble(tokenizer, [record, LONG[1]], max_tokens=150)
    assert rejected == {"toy/long": "too_long"}
    assert answers(samples) == [["Blue.", "It is."]]


def test_supervised_tokens_are_the_answers_and_their_ends(tokenizer):
    samples, _ = assemble(tokenizer, LONG, max_tokens=130)
    for sample in samples:
        decoded = tokenizer.decode(sample.ids[sample.supervised].tolist())
        assert decoded == "".join(round_.answer + "</s>" for round_ in sample.rounds)
        assert (sample.ids == tokenizer.image_id).sum() == len(sample.images)


def test_a_record_whose_text_the_chat_template_would_change_is_rejected_alone(tmp_path):
    tokenizer = TextTokenizer.load(chat_tokenizer(tmp_path / "tokenizer", shape="llama_3"))
    template = make_template("chat", tokenizer=tokenizer)
    trimmed = prepare_record("toy/c", [([4], "Fine?", "Yes."), ([], "Four?", "It is.\n")])
    records = [LONG[0], trimmed, LONG[1]]
    (sample,), rejected = assemble(tokenizer, records, max_tokens=10_000, template=template)
    assert rejected == {"toy/c": "changed_text"}
    assert [one.key for one in sample.records] == ["toy/a", "toy/b"]
    (alone,), _ = assemble(tokenizer, LONG, max_tokens=10_000, template=template)
    assert sample.ids.tolist() == alone.ids.tolist()


def test_places_loss_and_the_system_text_of_a_record_reach_its_sample(tokenizer):
    prepared = prepare_record("toy/a", [([0], "Is  red?", "No."), ([], "Sure?", "Yes.")])
    first, second = prepared.record.rounds
    rounds = (replace(first, places=(3,), supervised=False), second)
    record = replace(prepared.record, rounds=rounds, system="Be brief.")
    (sample,), _ = assemble(tokenizer, [replace(prepared, record=record)], max_tokens=1000)
    assert sample.system == "Be brief."
    assert [(one.places, one.supervised) for one in sample.rounds] == [((3,), False), ((), True)]
    assert tokenizer.decode(sample.ids) == (
        "<s>Be brief.\n\n### Question:\nIs ### Image 1:\n<image> red?\n\n### Answer:\nNo.</s>"
        "### Question:\nSure?\n\n### Answer:\nYes.</s>"
    )
    assert tokenizer.decode(sample.ids[sample.supervised]) == "Yes.</s>"


def test_images_that_a_part_shows_again_stand_in_front_of_it(tokenizer):
    prepared = prepare_record("toy/a", [([0], "Is  red?", "No."), ([1], "And ?", "Yes.")])
    first, second = prepared.record.rounds
    rounds = (replace(first, places=(3,)), replace(second, places=(4,)))
    prepared = replace(prepared, record=replace(prepared.record, rounds=rounds))
    (whole,), _ = assemble(tokenizer, [prepared], max_tokens=1000)
    samples, _ = assemble(tokenizer, [prepared], max_tokens=length(whole) - 1)
    assert [sample.rounds[0].places for sample in samples] == [(3,), (-1, 4)]
    assert "### Image 1:\n<image>\n\n### Question:\nAnd ### Image 2:\n<image>?" in tokenizer.decode(
        samples[1].ids
    )


def test_a_system_text_that_a_chat_template_refuses_rejects_its_record(tmp_path):
    folder = chat_tokenizer(tmp_path / "tokenizer", shape="mistral")
    tokenizer = TextTokenizer.load(folder)
    template = make_template("chat", tokenizer=tokenizer)
    prepared = prepare_record("toy/a", [([0], "Q?", "A")])
    prepared = replace(prepared, record=replace(prepared.record, system="Be brief."))
    _, rejected = assemble(tokenizer, [prepared], max_tokens=1000, template=template)
    assert rejected == {"toy/a": "changed_text"}
