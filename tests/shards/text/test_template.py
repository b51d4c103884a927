"""The published text format, character by character."""

from vchat.shards.text.template import (
    Control,
    Part,
    Text,
    TextRound,
    VisualChatTemplate,
)

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
