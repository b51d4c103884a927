"""A stored dialogue as parts of its template: what its token ids were made of."""

from __future__ import annotations

from vchat.shards.format.sample import Sample
from vchat.shards.text.template import Part, Template, TextRound


def dialogue_text(sample: Sample, template: Template) -> list[Part]:
    """Return the parts of a sample; encoded, they give its ids and its mask.

    Args:
        sample: As it is stored.
        template: That of its set; a system text of the sample's own replaces the template's.

    Raises:
        ValueError: The template refuses or alters a text.
    """
    if sample.system is not None:
        template = template.with_system(sample.system)
    return template.dialogue(
        [
            TextRound(
                num_images=len(stored.images),
                question=stored.question,
                answer=stored.answer,
                places=stored.places,
                supervised=stored.supervised,
            )
            for stored in sample.rounds
        ]
    )
