"""The tokenizer of the published code: the decoder's own, with the tokens that code adds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from vchat.shards.text.tokenizer import TextTokenizer

ADDED_TOKENS = ("### Image:", "<image>", "<PAD>")
"""What the published code adds, in this order; the last only if there is no padding token."""

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def extend_tokenizer(folder: Path) -> TextTokenizer:
    """Return the decoder's tokenizer with the tokens that the published code adds."""
    plain = TextTokenizer.load(folder)  # first: its errors are one line each
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = ADDED_TOKENS if plain.pad_token is None else ADDED_TOKENS[:-1]
    new = [token for token in tokens if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in new])
    with tempfile.TemporaryDirectory() as extended:
        for name in TOKENIZER_SETTINGS:
            if (folder / name).is_file():
                shutil.copy(folder / name, extended)
        tokenizer.save(str(Path(extended) / "tokenizer.json"))
        return TextTokenizer.load(Path(extended))
