"""Parts of a dialogue as token ids and a supervision mask.

Input: a folder with `tokenizer.json` and the names of its begin and end tokens in
`tokenizer_config.json` or `special_tokens_map.json`. Output: one id per token, one `<image>` id
per image, and a mask of the ids that carry loss. Only the `tokenizers` library reads the file:
loading and saving it through a tokenizer class of transformers can change ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from vchat.base.files import write_atomically
from vchat.base.safe_paths import read_plain
from vchat.shards.text.chat_template import ChatTemplateSpec
from vchat.shards.text.encoder import TextEncoder
from vchat.shards.text.template import Control, Part, Special, Text, TextRound, VisualChatTemplate

IMAGE_TOKEN = "<image>"
"""The only token that is added to a tokenizer."""

MAX_TOKENIZER_BYTES = 256 * 2**20
"""Of one file of a tokenizer."""

MAX_SETTINGS_BYTES = 16 * 2**20
"""Of a file beside `tokenizer.json`."""

PROBE_TEXT = (
    "The 3 cats   sat\u2014on 1,234 mats.\n\n\tna\u00efve \u4f60\u597d \u05e9\u05dc\u05d5\u05dd "
    "\U0001f600 \x00 <image> </s> <|im_end|> ### Answer:\nfi\ufb01 e\u0301"
)
"""Its ids are part of the fingerprint; it contains what tokenizers treat differently."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "fingerprint.json")
"""The files that `TextTokenizer.save` writes."""

SAVED_SETTINGS = ("unk_token", "pad_token", "chat_template", "add_bos_token", "model_max_length")
"""Fields of `tokenizer_config.json` that are saved, besides the begin and end tokens."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids of a dialogue or of its beginning, with one id per image slot."""

    ids: NDArray[np.int32]
    """int32[T], one `<image>` id per image."""

    supervised: NDArray[np.bool_]
    """bool[T], True for the ids of answers and their end tokens; never for the first id."""


class TextTokenizer:
    """A tokenizer with its begin, end and `<image>` tokens."""

    def __init__(self, tokenizer: Tokenizer, *, settings: dict[str, Any], origin: Path):
        """Use `load` instead; `origin` is the folder that errors name."""
        end = _token_text(settings, "eos_token")
        if end is None:
            raise ValueError(
                f"the tokenizer in {origin} names no end token: write "
                '"eos_token": "<its end-of-text token>" into tokenizer_config.json there'
            )
        begin = _token_text(settings, "bos_token")
        if settings.get("add_bos_token") is False:
            begin = None
        self.end_id = _token_id(tokenizer, end, name="end", origin=origin)
        self.begin_id = (
            None if begin is None else _token_id(tokenizer, begin, name="begin", origin=origin)
        )
        _mark_special(tokenizer, [text for text in (begin, end, IMAGE_TOKEN) if text is not None])
        self.image_id = _token_id(tokenizer, IMAGE_TOKEN, name="image", origin=origin)
        self._tokenizer = tokenizer
        self._settings = settings
        self._origin = origin
        self._encoder = TextEncoder(json.loads(tokenizer.to_str()))

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read the tokenizer in folder `path`; adds the token `<image>` if it is missing.

        Raises:
            ValueError: A file is missing, is malformed or names no end token; or the folder states
                a fingerprint that this tokenizer does not have.
        """
        read = _read_tokenizer(path)
        with refuse_failures(f"the tokenizer in {path} cannot be used"):
            loaded = cls(read, settings=_read_settings(path), origin=path)
        stated_file = path / "fingerprint.json"
        if stated_file.exists():
            stated = _read_json(stated_file).get("fingerprint")
            loaded.check_fingerprint(str(stated), origin=str(path))
        return loaded

    def check_fingerprint(self, stated: str, *, origin: str) -> None:
        """Raise ValueError, naming both fingerprints, unless `stated` is this tokenizer's."""
        if stated != self.fingerprint:
            raise ValueError(
                f"another tokenizer: {origin} states fingerprint {stated}, "
                f"the tokenizer there has {self.fingerprint}"
            )

    @property
    def pad_token(self) -> str | None:
        """The spelling of the folder's padding token; no text is encoded with it."""
        return _token_text(self._settings, "pad_token")

    @cached_property
    def num_ids(self) -> int:
        """The number of rows that an embedding table needs: the highest id + 1."""
        highest: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        return highest + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all tokens that are marked special."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(one for one, token in added.items() if token.special)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the behaviour: vocabulary, special ids, ids and mask of a fixed dialogue."""
        rounds = [
            TextRound(num_images=2, question=PROBE_TEXT, answer=PROBE_TEXT),
            TextRound(num_images=0, question="Why?", answer="Yes."),
        ]
        probe = self.encode(VisualChatTemplate().dialogue(rounds))
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        behaviour = {
            "vocabulary": sorted(vocabulary.items(), key=lambda item: (item[1], item[0])),
            "special": [self.begin_id, self.end_id, self.image_id],
            "ids": probe.ids.tolist(),
            "supervised": probe.supervised.tolist(),
        }
        return hashlib.sha256(json.dumps(behaviour).encode()).hexdigest()

    def encode(self, parts: Sequence[Part]) -> TokenizedText:
        """Encode parts; the ids of a prompt are an exact prefix of the ids of its training text.

        Text after `Control("begin")` opens a dialogue; all other text follows a special token.

        Raises:
            ValueError: A text is not valid Unicode, or the tokenizer fails.
        """
        with refuse_failures(f"the tokenizer in {self._origin} cannot encode"):
            spans = self._encode_spans(parts)
        ids = [token for span, _ in spans for token in span]
        mask = np.array([supervised for _, supervised in spans], dtype=np.bool_)
        return TokenizedText(
            ids=np.array(ids, dtype=np.int32),
            supervised=mask.repeat([len(span) for span, _ in spans]),
        )

    def _encode_spans(self, parts: Sequence[Part]) -> list[tuple[list[int], bool]]:
        """Return ids and supervision of the parts, span by span."""
        spans: list[tuple[list[int], bool]] = []
        opening = False
        for is_text, group in groupby(parts, key=lambda part: isinstance(part, Text)):
            if is_text:
                texts = [part for part in group if isinstance(part, Text)]
                spans += self._encoder.encode_segment(texts, opening=opening)
            else:
                controls = [part for part in group if not isinstance(part, Text)]
                opening = controls[-1] == Control("begin")
                spans += [(self._control_ids(part), part.supervised) for part in controls]
        return spans

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids from inside a dialogue, special tokens as they are spelled.

        A leading blank is kept: the ids continue others.
        """
        with refuse_failures(f"the tokenizer in {self._origin} cannot decode"):
            decoded = self._tokenizer.decode([self.end_id, *ids], skip_special_tokens=False)
            end = self._tokenizer.decode([self.end_id], skip_special_tokens=False)
        return str(decoded).removeprefix(end)

    def round_trip(self, text: str) -> str:
        """Encode text inside a dialogue and decode it again.

        Returns the text itself, unless the tokenizer normalizes or lacks some of it.
        """
        encoded = self.encode([Text("\n"), Text(text, supervised=True)])
        return self.decode(encoded.ids[encoded.supervised].tolist())

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `fingerprint.json` into a folder.

        Equal tokenizers give equal bytes, which contain no path.
        """
        settings = {
            name: self._settings[name] for name in SAVED_SETTINGS if name in self._settings
        } | {
            # With this class transformers reads tokenizer.json as it is and converts nothing.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": _token_text(self._settings, "bos_token"),
            "eos_token": _token_text(self._settings, "eos_token"),
        }
        fingerprint = {"fingerprint": self.fingerprint}
        for name, text in (
            ("tokenizer.json", self._tokenizer.to_str(pretty=True)),
            ("tokenizer_config.json", json.dumps(settings, indent=1, sort_keys=True)),
            ("fingerprint.json", json.dumps(fingerprint)),
        ):
            with write_atomically(folder / name) as file:
                file.write(text.encode())

    def special_id(self, part: Control | Special) -> int:
        """Return the id of an image slot, an end token or another special token."""
        (found,) = self._control_ids(part)
        return found

    def chat_template_spec(self) -> ChatTemplateSpec:
        """Return the tokenizer's chat template with the special tokens that rendering needs.

        Raises:
            ValueError: It has none; the error says which files can have one.
        """
        text = self._settings.get("chat_template")
        if isinstance(text, list):  # of several, by name
            named = {str(one.get("name")): one for one in text if isinstance(one, dict)}
            text = named.get("default", {}).get("template")
        if text is None:
            raise ValueError(
                f"the tokenizer in {self._origin} has no chat template: neither chat_template.jinja"
                " nor chat_template in tokenizer_config.json; use the template visualchat"
            )
        if not isinstance(text, str):
            raise ValueError(
                f"chat_template in {self._origin} is a {type(text).__name__}, wanted a string"
            )
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        variables = {name: _token_text(self._settings, name) for name in names}
        return ChatTemplateSpec(
            text=text,
            variables={name: value for name, value in variables.items() if value is not None},
            specials=_special_patterns(self._tokenizer),
            begin=None if self.begin_id is None else variables["bos_token"],
            origin=str(self._origin),
        )

    def _control_ids(self, part: Control | Special) -> list[int]:
        if isinstance(part, Special):
            return [_token_id(self._tokenizer, part.token, name="special", origin=self._origin)]
        if part.name == "begin":
            return [] if self.begin_id is None else [self.begin_id]
        return [self.end_id if part.name == "end" else self.image_id]


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`; raise ValueError with the reason if that fails."""
    path = folder / "tokenizer.json"
    if not folder.is_dir():
        raise ValueError(f"no tokenizer folder {folder}; wanted a folder with tokenizer.json")
    try:
        text = read_plain(path, max_bytes=MAX_TOKENIZER_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            f"no tokenizer.json in {folder}; if there is a tokenizer.model, load it once with "
            "transformers and save_pretrained() it as a fast tokenizer"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    with refuse_failures(f"{path} is not a tokenizer of the tokenizers library"):
        return Tokenizer.from_str(text)


@contextlib.contextmanager
def refuse_failures(problem: str) -> Iterator[None]:
    """Turn the failures of the tokenizers library into ValueError, its panics too."""
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__module__ == "pyo3_runtime"
        if is_panic or type(error) in (Exception, OverflowError):
            raise ValueError(f"{problem}: {' '.join(str(error).split())}") from error
        raise


def _read_settings(folder: Path) -> dict[str, Any]:
    """Return `tokenizer_config.json`, completed from `special_tokens_map.json`."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            found = _read_json(folder / name)
            settings |= {key: value for key, value in found.items() if value is not None}
    template = folder / "chat_template.jinja"
    if template.exists():
        text = read_plain(template, max_bytes=MAX_SETTINGS_BYTES)
        settings["chat_template"] = text.decode("utf-8", errors="replace")
    return settings


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_plain(path, max_bytes=MAX_SETTINGS_BYTES).decode("utf-8"))
    except OSError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; wanted a JSON object")
    return content


def _token_text(settings: dict[str, Any], name: str) -> str | None:
    """Return the spelling of a token, which a config gives as a string or as an object.

    Raises:
        ValueError: It is neither.
    """
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise ValueError(f"tokenizer_config.json: {name} is {ascii(value)[:60]}, wanted a string")
    return text


def _token_id(tokenizer: Tokenizer, text: str, *, name: str, origin: Path) -> int:
    found: int | None = tokenizer.token_to_id(text)
    if found is None:
        raise ValueError(f"the {name} token {text!r} of {origin} is not in its tokenizer.json")
    return found


def _mark_special(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Add tokens to the special ones where the file does not list them; only `<image>` is new."""
    listed = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    new = [text for text in texts if text not in listed]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in new])


def _special_patterns(tokenizer: Tokenizer) -> list[str]:
    """Return a pattern for each added token except `<image>` and blanks, the longest first.

    The pattern of a token that swallows white space around it includes that white space.
    """
    added = sorted(
        tokenizer.get_added_tokens_decoder().values(), key=lambda token: -len(token.content)
    )
    return [
        (r"\s*" if token.lstrip else "")
        + f"({re.escape(token.content)})"
        + (r"\s*" if token.rstrip else "")
        for token in added
        if token.content != IMAGE_TOKEN and not token.content.isspace()
    ]
