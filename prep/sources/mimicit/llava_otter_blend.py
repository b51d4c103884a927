"""LLaVA and CGD joined: conversations about each of two photographs, then their differences.

Input: the files of `llava`, `llava_dial` and `otter_mimicit_cgd`. Output: one record per group of
CGD instructions whose first photograph has a LLaVA conversation: for each photograph in order one
of its conversations (the last one may have none), then the differences. A keyed hash of the first
instruction's id chooses the conversation. Memory: the conversations, compressed.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vchat.prep.raw.data_path import DataPath
from vchat.prep.raw.json_stream import items
from vchat.prep.raw.keyed_hash import keyed_hash
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources import coco
from vchat.prep.sources.conversations import llava, llava_dial
from vchat.prep.sources.conversations.turns import num_answers, read_conversation
from vchat.prep.sources.mimicit import cgd
from vchat.prep.sources.mimicit.instructions import (
    Instruction,
    group_related,
    instructions_need,
    read_instructions,
)
from vchat.prep.sources.source import Converted, Entry, Source
from vchat.shards.format.record import ImageRef, Record, Round

NAME = "llava_otter_blend"
FILES = (*llava.FILES, llava_dial.FILE)


@dataclass(frozen=True, slots=True)
class PackedConversation:
    """One LLaVA conversation without defects, compressed."""

    id: str
    """Stem of its file, and its id there."""

    packed: bytes
    """The entry as compressed JSON."""

    num_pairs: int

    def rounds(self, image: ImageRef) -> tuple[Round, ...]:
        """Return its rounds about `image`."""
        return read_conversation(json.loads(zlib.decompress(self.packed)), [image]).rounds


def read_entries(data: DataPath) -> Iterator[Entry]:
    """Yield every group of CGD instructions with the conversations to join it to."""
    conversations = read_conversations(data)
    for group in group_related(list(read_instructions(data, "CGD"))):
        chosen = _choose_conversations(group[0], conversations)
        num_pairs = len(group) + sum(one.num_pairs for one in chosen if one is not None)
        convert = partial(to_record, group, chosen)
        yield Entry(id=group[0].id, num_pairs=num_pairs, convert=convert)


def read_conversations(data: DataPath) -> dict[int, list[PackedConversation]]:
    """Return the LLaVA conversations without defects, by COCO number, in file order."""
    found: dict[int, list[PackedConversation]] = {}
    for need in FILES:
        file = data / need.paths[0]
        for entry in items(file):
            try:
                number = coco.number_of_file(entry["image"])
                conversation = read_conversation(entry, [coco.train_2017(number)])
            except (Rejected, KeyError, TypeError):
                continue  # counted when `llava` and `llava_dial` are converted themselves
            if conversation.system is not None:
                continue  # it cannot be joined with instructions that have none
            packed = zlib.compress(json.dumps({"conversations": entry["conversations"]}).encode())
            one = PackedConversation(f"{file.stem}/{entry.get('id')}", packed, num_answers(entry))
            found.setdefault(number, []).append(one)
    return found


def _choose_conversations(
    first: Instruction, conversations: dict[int, list[PackedConversation]]
) -> list[PackedConversation | None]:
    """Return one conversation of each of the two photographs, None where there is none."""
    try:
        images = cgd.two_images(first.image_ids)
    except Rejected:
        return []
    some = [conversations.get(coco.number_in_path(image.file) or 0, []) for image in images]
    return [
        of[keyed_hash(0, f"conversation {number}", first.id) % len(of)] if of else None
        for number, of in enumerate(some)
    ]


def to_record(
    group: Sequence[Instruction], chosen: Sequence[PackedConversation | None]
) -> Converted:
    """Join one group to the conversations about its photographs.

    Raises:
        Rejected: `unmatched` if a photograph before the last has no conversation, and those of
            `cgd.to_record`.
    """
    differences = cgd.to_record(group)
    images = differences.record.images
    rounds: list[Round] = []
    for image, conversation in zip(images, chosen, strict=True):
        if conversation is not None:
            rounds += conversation.rounds(image)
        elif image is not images[-1]:
            raise Rejected("unmatched", f"no LLaVA conversation about {image.key}")
    shown = {image.key for round_ in rounds for image in round_.images}
    first, *rest = differences.record.rounds
    new = tuple(image for image in images if image.key not in shown)
    ids = [one.id for one in chosen if one is not None]
    record = Record(
        key=f"{NAME}/{group[0].id}",
        source=NAME,
        rounds=(*rounds, replace(first, images=new), *rest),
        licence=SOURCE.licence,
        file=group[0].file,
        record_id="+".join([group[0].id, *ids]),
    )
    return Converted(
        record=record,
        rejected_pairs=Counter(differences.rejected_pairs),
        repairs=Counter(differences.repairs),
    )


SOURCE = Source(
    name=NAME,
    about="LLaVA conversations about two photographs, then CGD differences between them",
    needs=(
        *FILES,
        instructions_need("CGD"),
        coco.TRAIN_2017,
    ),
    licence=f"{llava.LICENCE}; {cgd.SOURCE.licence}",
    read_entries=read_entries,
)
