r"""A tokenizer's own chat template as parts: running text, special tokens, and what carries loss.

A chat template is a program that writes a list of messages as one string. Here it is rendered
once with a unique sentinel for every message; the text around the sentinels is the frame of every
dialogue. Special tokens are looked for in the frame only, never in a message. Every round is also
rendered with its own texts and compared with the frame around them, so a template that trims,
drops or reorders text is an error and never changes the training data. No model is known by name.

Images stand in the user's message as text with slots, before the question or at their places in
it, as in the template `visualchat`. An image part of the chat template is not used. A template that
asks for the date gets none: a build has no clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from vchat.shards.text.template import (
    Control,
    Part,
    Special,
    Text,
    TextRound,
    answer_parts,
    dialogue_parts,
    join_texts,
    question_parts,
    template_digest,
)
from vchat.shards.text.template_program import TemplateExcess, TemplateRefusal, template_program

SENTINEL_ROUNDS = tuple((f"\ue000question{n}\ue000", f"\ue000answer{n}\ue000") for n in (1, 2, 3))
"""Sentinels as questions and answers: texts that no template and no dialogue contains."""

SYSTEM_SENTINEL = "\ue000system\ue000"
FRAME_VERSION = 1
"""Version of the frame: raised when the parts of a chat template would change."""

SHOWN_CHARACTERS = 60
"""The number of characters of a text that an error shows."""


class TextChanged(ValueError):
    """A chat template trims, drops or alters a message, or does not write it within bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplateSpec:
    """A tokenizer's chat template and the special tokens that it may write."""

    text: str
    """The template, in the Jinja language."""

    variables: Mapping[str, str]
    """Values of the variables that the template may use, such as `bos_token`."""

    specials: Sequence[str]
    """A regular expression for each special token, with its spelling as the only group."""

    begin: str | None
    """The token that opens every text of this tokenizer, if there is one."""

    origin: str
    """The folder that errors name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The text that a chat template writes around messages."""

    opening: tuple[str, ...]
    """Before the first question; two pieces, around the system text, if there is one."""

    before_answer: str
    after_answer: str
    """From an answer to the next question."""

    closing: str
    """After the last answer."""


class ChatTemplate:
    """The chat template of a tokenizer.

    The end token is the one that the template writes right after every answer. The parts of a
    dialogue end with that of the last answer; text that the template writes after it is left out.
    A blank that it writes before every answer (Mistral's templates do) belongs to the prompt, so
    the supervised text is the answer alone.
    """

    name: ClassVar[str] = "chat"

    def __init__(self, spec: ChatTemplateSpec, *, system: str | None = None):
        """Find the frame and the end token of a template, and check that it keeps texts.

        Args:
            spec: From `TextTokenizer.chat_template_spec`.
            system: The system message; None to send none (a template may have its own).

        Raises:
            ValueError: The template is not valid, refuses such messages, trims, drops or reorders
                them, makes a round depend on others, or writes no special token after an answer.
        """
        self.spec = spec
        self.system = system
        self._program = template_program(spec.text)
        self._specials = re.compile("|".join(spec.specials))
        self._frame = self._find_frame()
        self.end = self._find_end()
        self._check_system()
        self._check_prompts()

    def opening(self) -> list[Part]:
        """Return the parts before the first question."""
        head, *tail = [self._split_at_specials(piece) for piece in self._frame.opening]
        if self.spec.begin is None:
            head = [Control("begin"), *head]  # has no id; the text after it opens a dialogue
        elif head[:1] == [Special(self.spec.begin)]:
            head = [Control("begin"), *head[1:]]
        return [*head, *(part for piece in tail for part in (Text(self.system or ""), *piece))]

    def between(self) -> list[Part]:
        """Return the parts between an end token and the next question."""
        return self._split_at_specials(self._frame.after_answer)[1:]

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
        """Return the parts of one round, which do not depend on other rounds.

        Args:
            question: Running text; not altered.
            answer: None ends before the answer: the prompt of a chat.
            num_images: Images first shown in this round.
            first_image: Printed number of the first of them, counted from 1 over the dialogue.
            places: Where they stand, as in `TextRound`.
            supervised: Whether the answer carries loss.

        Raises:
            TextChanged: The template does not write these texts as they are.
        """
        shown = TextRound(
            num_images=num_images,
            question=question,
            answer=answer,
            places=places,
            supervised=supervised,
        )
        before, asked = question_parts(shown, first_image=first_image)
        content = before + join_texts(asked)
        spelled = "".join(part.text if isinstance(part, Text) else "<image>" for part in content)
        self._check_unchanged(spelled, SENTINEL_ROUNDS[0][1] if answer is None else answer)
        header = self._split_at_specials(self._frame.before_answer)
        return content + header + answer_parts(shown, end=self.end)

    def dialogue(self, rounds: Sequence[TextRound]) -> list[Part]:
        """Return the parts of a whole dialogue; images are numbered from 1 over all rounds."""
        return dialogue_parts(self, rounds)

    def with_system(self, text: str) -> ChatTemplate:
        """Return the same template with another system message, stripped."""
        return ChatTemplate(self.spec, system=text.strip())

    @property
    def digest(self) -> str:
        """SHA-256 over the parts of a fixed dialogue; equal digests mean equal rendering."""
        return template_digest(self)

    def _find_frame(self) -> Frame:
        """Render three rounds of sentinels and return the text around them."""
        sentinels = [text for pair in SENTINEL_ROUNDS for text in pair]
        system = None if self.system is None else SYSTEM_SENTINEL
        first = [] if system is None else [system]
        rendered = self._render(SENTINEL_ROUNDS, system=system)
        pieces = self._split_at_sentinels(rendered, [*first, *sentinels])
        rest = pieces[len(first) + 1 :]
        headers, gaps = {*rest[0::2]}, {*rest[1:-1:2]}
        if len(headers) > 1 or len(gaps) > 1:
            self._fail(f"writes rounds differently by their number: {sorted(headers | gaps)}")
        return Frame(
            opening=tuple(pieces[: len(first) + 1]),
            before_answer=rest[0],
            after_answer=rest[1],
            closing=rest[-1],
        )

    def _split_at_sentinels(self, text: str, sentinels: Sequence[str]) -> list[str]:
        """Split text at the sentinels; each must occur once, in order."""
        for sentinel in sentinels:
            if (count := text.count(sentinel)) != 1:
                what = "drops or alters" if count == 0 else f"writes {count} times"
                self._fail(f"{what} the text of a message ({sentinel.strip(chr(0xE000))})")
        if sorted(sentinels, key=text.find) != list(sentinels):
            self._fail("reorders the messages")
        return re.split("|".join(sentinels), text)

    def _find_end(self) -> Special:
        """Return the special token that follows every answer, the last one included."""
        ends = []
        for written in (self._frame.after_answer, self._frame.closing):
            parts = self._split_at_specials(written)
            if not parts or not isinstance(parts[0], Special):
                self._fail(
                    f"writes {written[:SHOWN_CHARACTERS]!r} after an answer; wanted a special"
                    " token of the tokenizer right after it"
                )
            ends.append(Special(parts[0].token, supervised=True))
        if ends[0] != ends[1]:
            self._fail(f"ends answers by {ends[0].token!r}, but the last by {ends[1].token!r}")
        return ends[0]

    def _check_system(self) -> None:
        if self._render(SENTINEL_ROUNDS, system=self.system) != self._expected_text(
            SENTINEL_ROUNDS
        ):
            self._fail(
                f"trims or alters the system text {(self.system or '')[:SHOWN_CHARACTERS]!r}"
            )

    def _check_prompts(self) -> None:
        """Raise ValueError unless a prompt is the beginning of a training text.

        They may differ in the blanks at the prompt's end.
        """
        for n in range(1, len(SENTINEL_ROUNDS) + 1):
            wanted = self._expected_text(SENTINEL_ROUNDS[:n]).partition(SENTINEL_ROUNDS[n - 1][1])[
                0
            ]
            if not self._render(SENTINEL_ROUNDS[:n], system=self.system).startswith(wanted):
                self._fail(f"writes the beginning of a dialogue of {n} rounds differently")
            found = self._render(
                [*SENTINEL_ROUNDS[: n - 1], (SENTINEL_ROUNDS[n - 1][0], None)], system=self.system
            )
            if found != wanted and (not wanted.startswith(found) or wanted[len(found) :].strip()):
                self._fail(
                    f"ends a prompt with {_tail(found)!r}, but writes {_tail(wanted)!r} before"
                    " an answer that is there"
                )

    def _check_unchanged(self, question: str, answer: str) -> None:
        """Render the round as an earlier and as the last one; raise TextChanged on a difference."""
        rounds = [(question, answer)] * 2
        found, wanted = self._render(rounds, system=self.system), self._expected_text(rounds)
        if found == wanted:
            return
        first = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), 0)
        only_blanks = "".join(found.split()) == "".join(wanted.split())
        raise TextChanged(
            f"the chat template of {self.spec.origin}"
            f" {'trims white space' if only_blanks else 'drops or alters text'}: it writes"
            f" {found[first : first + SHOWN_CHARACTERS]!r} where the dialogue has"
            f" {wanted[first : first + SHOWN_CHARACTERS]!r}"
        )

    def _expected_text(self, rounds: Sequence[tuple[str, str]]) -> str:
        """Return the frame with these texts in it."""
        frame = self._frame
        whole = (self.system or "").join(frame.opening)
        for number, (question, answer) in enumerate(rounds, start=1):
            after = frame.closing if number == len(rounds) else frame.after_answer
            whole += question + frame.before_answer + answer + after
        return whole

    def _render(self, rounds: Sequence[tuple[str, str | None]], *, system: str | None) -> str:
        """Render messages as they are; a last answer of None asks for a prompt."""
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question, answer in rounds:
            messages.append({"role": "user", "content": question})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        variables = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": messages[-1]["role"] == "user",
            **self.spec.variables,
        }
        try:
            return self._program.render(variables)
        except SyntaxError as error:
            raise ValueError(
                f"the chat template of {self.spec.origin} is not valid, {error}"
            ) from error
        except TemplateExcess as error:
            raise TextChanged(f"the chat template of {self.spec.origin} {error}") from error
        except TemplateRefusal as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the chat template of {self.spec.origin} refuses messages of {roles}: {error};"
                " leave the system text out, or use the template visualchat"
            ) from error

    def _split_at_specials(self, text: str) -> list[Part]:
        """Split a piece of the frame into text and special tokens."""
        parts: list[Part] = []
        start = 0
        for match in self._specials.finditer(text):
            assert match.lastindex is not None
            parts += [Text(text[start : match.start()]), Special(match[match.lastindex])]
            start = match.end()
        return [part for part in (*parts, Text(text[start:])) if part != Text("")]

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(
            f"the chat template of {self.spec.origin} {what}; use the template visualchat"
        )


def _tail(text: str) -> str:
    return text[-SHOWN_CHARACTERS // 2 :]
