"""Makes toy tokenizers, samples and shard sets for all tests; no fixture is a binary file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks. "
    "### Image 1:\n### Image 2:\n### Question:\nWhat color is the square?\n\n### Answer:\n"
    "The square is red. How many circles are there? two three four blue green yellow left right\n"
)


def toy_tokenizer(
    folder: Path,
    *,
    begin: str | None = "<s>",
    end: str | None = "</s>",
    merge_across_words: bool = False,
    num_ids: int = 420,
    added: Sequence[AddedToken] = (),
) -> Path:
    """Train a byte-level BPE on a few words and write it to folder; returns the folder.

    Args:
        folder: Made if absent.
        begin: None for a tokenizer without one.
        end: None for one that cannot be used.
        merge_across_words: No splitting before merging, so tokens reach across blanks and lines.
        num_ids: At most; 256 of them are the bytes.
        added: Further tokens, special or not.
    """
    special = [text for text in (begin, end) if text is not None]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=not merge_across_words
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_ids,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    tokenizer.add_tokens(list(added))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": begin, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
