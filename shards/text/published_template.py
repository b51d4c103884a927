"""The published format as the published chat code tokenizes it, for models that it trained.

The text is that of the template `visualchat`; every round opens with a begin token. (The published
training code tokenizes `### Image 1:` apart from its surroundings, its chat code does not; this
template follows the chat code.)
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
    """The template `visualchat`, with a begin token before every round."""

    name: ClassVar[str] = "visualchat-published"
    end: ClassVar[Control] = VisualChatTemplate.end
    system: str = SYSTEM

    def opening(self) -> list[Part]:
        """Return the parts before the first round."""
        return VisualChatTemplate(system=self.system).opening()

    def between(self) -> list[Part]:
        """Return the begin token of the next round."""
        return [Control("begin")]

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
        """Return the parts of one round, without its begin token."""
        return VisualChatTemplate(system=self.system).round(
            question,
            answer,
            num_images=num_images,
            first_image=first_image,
            places=places,
            supervised=supervised,
        )

    def dialogue(self, rounds: Sequence[TextRound]) -> list[Part]:
        """Return the parts of a whole dialogue; images are numbered from 1 over all rounds."""
        return dialogue_parts(self, rounds)

    def with_system(self, text: str) -> PublishedTemplate:
        """Return the template with another system text, followed by a blank line."""
        return PublishedTemplate(system=text.rstrip() + "\n\n")

    @property
    def digest(self) -> str:
        """SHA-256 over the parts of a fixed dialogue; equal digests mean equal rendering."""
        return template_digest(self)
