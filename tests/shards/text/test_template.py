"""The published text format, character by character."""

from dataclasses import replace

from vchat.shards.text.template import (
    Control,
    Part,
    Text,
    TextRound,
    VisualChatTemplate,
)
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import toy_tokenizer

SPELLED = {"begin": "<begin>", "image": "<image>", "end": "<end>"}


def spelled(parts: list[Part]) -> str:
    """The parts as one text, controls written out."""
    return "".join(part.text if isinstance(part, Text) else SPELLED[part.name] for part in parts)


def test_a_dialogue_reads_as_published():
    rounds = [
        TextRound(num_images=2, question="What differs?", answer="The hat."),
        TextRound(num_images=0, question="Sure?", answer="Yes."),
        TextRound(num_images=1, question="And now?", answer=None),
    ]
    assert spelled(VisualChatTemplate().dialogue(rounds)) == (
        "<begin>You are a helpful language and vision assistant. You are able to understand the "
        "visual content that the user provides, and assist the user with a variety of tasks using "
        "natural language.\n\n"
        "### Image 1:\n<image>\n### Image 2:\n<image>\n\n"
        "### Question:\nWhat differs?\n\n### Answer:\nThe hat.<end>"
        "### Question:\nSure?\n\n### Answer:\nYes.<end>"
        "### Image 3:\n<image>\n\n### Question:\nAnd now?\n\n### Answer:\n"
    )


def test_only_answers_and_their_end_tokens_are_supervised():
    parts = VisualChatTemplate().dialogue(
        [
            TextRound(num_images=1, question="q", answer="a"),
            TextRound(num_images=0, question="r", answer="b"),
        ]
    )
    assert [part for part in parts if part.supervised] == [
        Text("a", supervised=True),
        Control("end", supervised=True),
        Text("b", supervised=True),
        Control("end", supervised=True),
    ]


def test_a_prompt_is_the_beginning_of_its_training_parts():
    template = VisualChatTemplate()
    prompt = template.round("q", None, num_images=2, first_image=3)
    trained = template.round("q", "a", num_images=2, first_image=3)
    assert trained[: len(prompt)] == prompt


def test_a_dialogue_is_its_opening_and_its_rounds():
    template = VisualChatTemplate()
    parts = template.dialogue(
        [
            TextRound(num_images=1, question="q", answer="a"),
            TextRound(num_images=1, question="r", answer="b"),
        ]
    )
    assert parts == (
        template.opening()
        + template.round("q", "a", num_images=1, first_image=1)
        + template.round("r", "b", num_images=1, first_image=2)
    )


def test_an_image_inside_a_question_stands_at_its_place_with_its_header():
    shown = TextRound(num_images=3, question="Is  like ?", answer="No.", places=(-1, 3, 9))
    assert spelled(VisualChatTemplate(system="S\n\n").dialogue([shown])) == (
        "<begin>S\n\n### Image 1:\n<image>\n\n"
        "### Question:\nIs ### Image 2:\n<image> like ### Image 3:\n<image>?\n\n"
        "### Answer:\nNo.<end>"
    )


def test_an_answer_without_loss_has_the_ids_that_it_would_have_with_loss(tmp_path):
    folder = toy_tokenizer(tmp_path / "tokenizer", merge_across_words=True)
    tokenizer, template = TextTokenizer.load(folder), VisualChatTemplate()
    rounds = [
        TextRound(num_images=1, question="What color?", answer="The square is red."),
        TextRound(num_images=0, question="Sure?", answer="Yes."),
    ]
    with_loss = tokenizer.encode(template.dialogue(rounds))
    half = tokenizer.encode(template.dialogue([replace(rounds[0], supervised=False), rounds[1]]))
    assert half.ids.tolist() == with_loss.ids.tolist()
    assert tokenizer.decode(half.ids[half.supervised]) == "Yes.</s>"
    none = [replace(one, supervised=False) for one in rounds]
    assert not tokenizer.encode(template.dialogue(none)).supervised.any()
