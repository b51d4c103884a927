r"""A dialogue as text with marked spans: where images go, and what carries loss.

A template turns rounds into a list of parts. A part is running text, or a control that the
tokenizer replaces by one special token: the begin of a dialogue, an image slot, the end of an
answer. Only answers and the end after them are supervised. Shards, training and chat use the same
functions, so a chat prompt is always the beginning of a training text.

The published format, with `E` for the end token; the next round follows it immediately:

    system text
    ### Image 1:\n<image>\n### Image 2:\n<image>\n\n      (only in rounds that show images)
    ### Question:\n...\n\n### Answer:\n...E

An image inside a question stands at its place, with its header: `### Image 1:\n<image>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, Protocol

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.\n\n"
)
"""The published system text."""


@dataclass(frozen=True, slots=True)
class Text:
    """Running text; the spelling of a special token in it stays text."""

    text: str
    supervised: bool = False


class UnsupervisedAnswer(Text):
    """The text of an answer without loss; its ids are those that it would have with loss."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Control:
    """One special token: `begin` of a dialogue, `image` slot, or `end` of an answer."""

    name: Literal["begin", "image", "end"]
    supervised: bool = False


@dataclass(frozen=True, slots=True)
class Special:
    """Any other special token, by its spelling; only chat templates produce it."""

    token: str
    supervised: bool = False


Part = Text | Control | Special


@dataclass(frozen=True, slots=True)
class TextRound:
    """What a template needs of one round.

    Raises:
        ValueError: There are places, but not one per image.
    """

    num_images: int
    """Images first shown in this round."""

    question: str
    answer: str | None
    """None in the prompt of a chat, where the model answers."""

    places: tuple[int, ...] = ()
    """Empty: the images stand in front of the round. Else one per image, ascending: the number of
    characters of the question before its slot, or -1 in front of the round."""

    supervised: bool = True
    """Whether the answer carries loss."""

    def __post_init__(self) -> None:
        if self.places and len(self.places) != self.num_images:
            raise ValueError(f"{len(self.places)} places for {self.num_images} images")


class Template(Protocol):
    """What shards, training and chat need of a template."""

    name: ClassVar[str]

    @property
    def system(self) -> str | None:
        """The system text: the given one, or the template's default."""

    @property
    def end(self) -> Control | Special:
        """The supervised token after every answer."""

    def opening(self) -> list[Part]:
        """Return the parts before the first round."""

    def between(self) -> list[Part]:
        """Return the parts between an end token and the next round."""

    def round(
        self,
        question: str,
        answer: str | None,
        *,
        num_images: int,
        first_image: int,
        places: tuple[int, ...] = (),
        supervised: bool = True,
    ) -> list[Part]:
        """Return the parts of one round, its end token included."""

    def dialogue(self, rounds: Sequence[TextRound]) -> list[Part]:
        """Return the parts of a whole dialogue; images are numbered from 1 over all rounds."""

    def with_system(self, text: str) -> Template:
        """Return the same template with another system text, separated as the template does it."""

    @property
    def digest(self) -> str:
        """SHA-256 over the parts of a fixed dialogue; equal digests mean equal rendering."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class VisualChatTemplate:
    """The published format of DeepSpeed-VisualChat."""

    name: ClassVar[str] = "visualchat"
    end: ClassVar[Control] = Control("end", supervised=True)
    system: str = SYSTEM

    def opening(self) -> list[Part]:
        """Return the parts before the first round."""
        return [Control("begin"), Text(self.system)]

    def between(self) -> list[Part]:
        """Return nothing: a round follows the previous end token immediately."""
        return []

    def round(
        self,
        question: str,
        answer: str | None,
        *,
        num_images: int,
        first_image: int,
        places: tuple[int, ...] = (),
        supervised: bool = True,
    ) -> list[Part]:
        """Return the parts of one round, which do not depend on earlier rounds.

        Args:
            question: Running text; not altered.
            answer: None ends after the answer's header: the prompt of a chat.
            num_images: Images first shown in this round.
            first_image: Printed number of the first of them, counted from 1 over the dialogue.
            places: Where they stand, as in `TextRound`.
            supervised: Whether the answer carries loss.
        """
        shown = TextRound(
            num_images=num_images,
            question=question,
            answer=answer,
            places=places,
            supervised=supervised,
        )
        before, asked = question_parts(shown, first_image=first_image)
        asked = [Text("### Question:\n"), *asked, Text("\n\n### Answer:\n")]
        return before + join_texts(asked) + answer_parts(shown, end=self.end)

    def dialogue(self, rounds: Sequence[TextRound]) -> list[Part]:
        """Return the parts of a whole dialogue; images are numbered from 1 over all rounds."""
        return dialogue_parts(self, rounds)

    def with_system(self, text: str) -> VisualChatTemplate:
        """Return the template with another system text, followed by a blank line."""
        return VisualChatTemplate(system=text.rstrip() + "\n\n")

    @property
    def digest(self) -> str:
        """SHA-256 over the parts of a fixed dialogue; equal digests mean equal rendering."""
        return template_digest(self)


def dialogue_parts(template: Template, rounds: Sequence[TextRound]) -> list[Part]:
    """Return the parts of a dialogue in a template; images are numbered from 1 over all rounds."""
    parts = template.opening()
    first_image = 1
    for number, shown in enumerate(rounds):
        parts += template.between() if number else []
        parts += template.round(
            shown.question,
            shown.answer,
            num_images=shown.num_images,
            first_image=first_image,
            places=shown.places,
            supervised=shown.supervised,
        )
        first_image += shown.num_images
    return parts


def template_digest(template: Template) -> str:
    """Return the SHA-256 over the parts of a fixed dialogue."""
    probe = [
        TextRound(num_images=2, question="question one", answer="answer one"),
        TextRound(num_images=0, question="question two", answer="answer two"),
        TextRound(num_images=1, question="question three", answer=None),
    ]
    parts = [[type(part).__name__, asdict(part)] for part in template.dialogue(probe)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def question_parts(shown: TextRound, *, first_image: int) -> tuple[list[Part], list[Part]]:
    """Return the images in front of a round, and its question with the other images in it.

    In front stand a numbered header and a slot per image, and a blank line after the last. Inside a
    question, the header and the slot stand at the image's place.
    """
    places = shown.places or (-1,) * shown.num_images
    before: list[Part] = []
    question: list[Part] = []
    start = 0
    for number, place in enumerate(places, start=first_image):
        slot: list[Part] = [Text(f"### Image {number}:\n"), Control("image")]
        if place < 0:
            before += [*slot, Text("\n")]
        else:
            question += [Text(shown.question[start:place]), *slot]
            start = place
    question.append(Text(shown.question[start:]))
    return ([*before, Text("\n")] if before else []), question


def answer_parts(shown: TextRound, *, end: Control | Special) -> list[Part]:
    """Return a round's answer and the end token after it; nothing if there is no answer."""
    if shown.answer is None:
        return []
    if shown.supervised:
        return [Text(shown.answer, supervised=True), end]
    return [UnsupervisedAnswer(shown.answer), replace(end, supervised=False)]


def join_texts(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with neighbouring texts without loss joined, and empty ones left out."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + part.text)
        elif part != Text(""):
            joined.append(part)
    return joined
