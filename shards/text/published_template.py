"""The published format as the published chat tokenizes it: for models that its code trained.

The text is that of the template `visualchat`; a begin token stands on every round. (The published
training code tokenizes `### Image 1:` apart from what is around it, its chat code does not. This is
the chat's way.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vchat.shards.text.template import (
    SYSTEM,
    Control,
    Part,
    TextRound,
    VisualChatTemplate,
    dialogue_parts,
    template_digest,
)


@dataclass(frozen=True, slots=True)
class PublishedTemplate:
    """The template `visualchat`, with a begin token on every round."""

    name: ClassVar[str] = "visualchat-published"
    end: ClassVar[Control] = VisualChatTemplate.end
    system: str = SYSTEM

    def opening(self) -> list[Part]:
        """Return what stands before the first round, once per dialogue."""
        return VisualChatTemplate(system=self.system).opening()

    def between(self) -> list[Part]:
        """Return the begin token of another round."""
        return [Control("begin")]

    def round(
        self, question: str, answer: str | None, *, num_images: int, first_image: int
    ) -> list[Part]:
        """Return the parts of one round behind its begin token."""
        return VisualChatTemplate(system=self.system).round(
            question, answer, num_images=num_images, first_image=first_image
        )

    def dialogue(self, rounds: Sequence[TextRound]) -> list[Part]:
        """Return the parts of a whole dialogue, its images numbered from 1 through all rounds."""
        return dialogue_parts(self, rounds)

    def with_system(self, text: str) -> PublishedTemplate:
        """Return the template with another system text, set off by a blank line as its own."""
        return PublishedTemplate(system=text.rstrip() + "\n\n")

    @property
    def digest(self) -> str:
        """SHA-256 over the parts of a fixed dialogue: equal digests render equally."""
        return template_digest(self)
