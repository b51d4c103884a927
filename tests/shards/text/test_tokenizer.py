"""Text to ids and mask: exact prefixes, exact answers, and text that stays text."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from vchat.shards.text.template import Control, Text, TextRound, VisualChatTemplate
from vchat.shards.text.tokenizer import IMAGE_TOKEN, TextTokenizer
from vchat_testing.toy import toy_tokenizer

LLAMA = Path(__file__).parents[2] / "golden" / "tokenizer"
SHAPES = ("byte_level", "llama", "no_begin", "across_lines", "metaspace", "unigram", "composing")
LOSSLESS = ("byte_level", "no_begin", "across_lines")
ODD = (
    "<image>",
    "### Answer:\n",
    "### Question:\n",
    "</s>",
    "<s>",
    "<unk>",
    "<|im_end|>",
    "\x00",
    "\U0001f600\U0001f469\u200d\U0001f680",
    "\u05e9\u05dc\u05d5\u05dd \u200f",
    "e\u0301",
    "\u2581",
    "  ",
    "\n\n",
    "\ufffd",
    "The square is red.",
)
TEXTS = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), max_size=5).map("".join)
ROUNDS = st.lists(
    st.builds(TextRound, num_images=st.integers(0, 2), question=TEXTS, answer=TEXTS),
    min_size=1,
    max_size=3,
)


def metaspace_tokenizer(folder: Path) -> Path:
    """The Llama vocabulary behind a pre-tokenizer that prefixes the first word of a text only."""
    spec = json.loads((LLAMA / "tokenizer.json").read_text())
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "first",
        "split": False,
    }
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return folder


def unigram_tokenizer(folder: Path) -> Path:
    """Its model can make `</s>` and `<s>` out of text without any added token's help."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "The", "\u2581"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0, True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return folder


def composing_tokenizer(folder: Path) -> Path:
    """Byte-level, composes characters (NFC), and splits so that line breaks stay together."""
    spec = json.loads((toy_tokenizer(folder) / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "NFC"}
    pattern = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    byte_level = {**spec["pre_tokenizer"], "use_regex": False}
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{**split, "invert": False}, byte_level],
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, TextTokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    folders = {
        "byte_level": toy_tokenizer(root / "byte_level"),
        "llama": LLAMA,
        "no_begin": toy_tokenizer(root / "no_begin", begin=None),
        "across_lines": toy_tokenizer(root / "across_lines", merge_across_words=True, num_ids=600),
        "metaspace": metaspace_tokenizer(root / "metaspace"),
        "unigram": unigram_tokenizer(root / "unigram"),
        "composing": composing_tokenizer(root / "composing"),
    }
    return {shape: TextTokenizer.load(folder) for shape, folder in folders.items()}


def supervised_runs(tokenizer: TextTokenizer, ids, supervised) -> list[list[int]]:
    """The supervised ids, cut after each end token."""
    runs: list[list[int]] = [[]]
    for token in ids[supervised].tolist():
        runs[-1].append(token)
        if token == tokenizer.end_id:
            runs.append([])
    return runs[:-1]


def alike(text: str) -> str:
    """Text without what the tokenizers that are not lossless change."""
    return unicodedata.normalize("NFC", text.replace("\u2581", " "))


def round_trip(tokenizer: TextTokenizer, answer: str) -> str:
    """What the tokenizer decodes from encoding the answer, in mid-line."""
    before, both = (tokenizer.encode([Text(text)]).ids for text in ("x\n", f"x\n{answer}"))
    return tokenizer.decode(both).removeprefix(tokenizer.decode(before))


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60, deadline=None)
@given(rounds=ROUNDS)
def test_the_ids_of_a_prompt_are_an_exact_prefix_of_the_training_ids(tokenizers, shape, rounds):
    template, tokenizer = VisualChatTemplate(), tokenizers[shape]
    trained = tokenizer.encode(template.dialogue(rounds))
    for asked in range(len(rounds)):
        last = rounds[asked]
        open_round = TextRound(num_images=last.num_images, question=last.question, answer=None)
        prompt = tokenizer.encode(template.dialogue([*rounds[:asked], open_round]))
        n = len(prompt.ids)
        assert prompt.ids.tolist() == trained.ids[:n].tolist()
        assert prompt.supervised.tolist() == trained.supervised[:n].tolist()
        assert not prompt.supervised[-1]
        assert trained.supervised[n]


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60, deadline=None)
@given(rounds=ROUNDS)
def test_rounds_encoded_one_at_a_time_give_the_ids_of_the_dialogue(tokenizers, shape, rounds):
    template, tokenizer = VisualChatTemplate(), tokenizers[shape]
    ids: list[int] = []
    first_image = 1
    for number, r in enumerate(rounds):
        parts = template.opening() if number == 0 else []
        parts += template.round(
            r.question, r.answer, num_images=r.num_images, first_image=first_image
        )
        ids += tokenizer.encode(parts).ids.tolist()
        first_image += r.num_images
    assert ids == tokenizer.encode(template.dialogue(rounds)).ids.tolist()


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60, deadline=None)
@given(rounds=ROUNDS)
def test_supervised_ids_are_the_answers_and_their_end_tokens(tokenizers, shape, rounds):
    tokenizer = tokenizers[shape]
    encoded = tokenizer.encode(VisualChatTemplate().dialogue(rounds))
    runs = supervised_runs(tokenizer, encoded.ids, encoded.supervised)
    assert len(runs) == len(rounds)
    for run, expected in zip(runs, rounds, strict=True):
        assert run[-1] == tokenizer.end_id
        decoded = tokenizer.decode(run[:-1])
        if shape in LOSSLESS:
            assert decoded == expected.answer
        else:
            assert decoded == round_trip(tokenizer, expected.answer)
            assert decoded == tokenizer.round_trip(expected.answer)
            assert alike(decoded) == alike(expected.answer)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60, deadline=None)
@given(rounds=ROUNDS)
def test_text_never_becomes_a_special_token(tokenizers, shape, rounds):
    tokenizer = tokenizers[shape]
    ids = tokenizer.encode(VisualChatTemplate().dialogue(rounds)).ids.tolist()
    assert ids.count(tokenizer.image_id) == sum(r.num_images for r in rounds)
    assert ids.count(tokenizer.end_id) == len(rounds)
    assert ids.count(tokenizer.begin_id) == (tokenizer.begin_id is not None)


@pytest.mark.parametrize("shape", LOSSLESS)
@settings(max_examples=60, deadline=None)
@given(question=TEXTS)
def test_odd_questions_survive_unaltered(tokenizers, shape, question):
    tokenizer = tokenizers[shape]
    parts = VisualChatTemplate().round(question, None, num_images=0, first_image=1)
    expected = f"### Question:\n{question}\n\n### Answer:\n"
    assert tokenizer.decode(tokenizer.encode(parts).ids) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_text_gets_the_ids_the_tokenizer_itself_gives_it(tokenizers, shape):
    """Where a text spells no special token, ours is the tokenizer's own encoding of it."""
    rounds = [
        TextRound(num_images=2, question="What color is it?", answer="The square is red."),
        TextRound(num_images=0, question="How many?", answer="Two circles."),
    ]
    tokenizer = tokenizers[shape]
    parts = VisualChatTemplate().dialogue(rounds)
    spelled = "".join(
        part.text
        if isinstance(part, Text)
        else {"image": IMAGE_TOKEN, "end": "</s>"}.get(part.name, "")
        for part in parts
    )
    plain = tokenizer._tokenizer.encode(spelled, add_special_tokens=False)
    begin = [] if tokenizer.begin_id is None else [tokenizer.begin_id]
    found = tokenizer.encode(parts).ids.tolist()
    if shape != "across_lines":
        assert found == begin + plain.ids
    else:
        assert found != begin + plain.ids, "this shape is here because it must be cut"


def test_a_token_that_would_cross_the_boundary_is_cut_there(tokenizers):
    tokenizer = tokenizers["across_lines"]
    whole = tokenizer.encode([Text("### Answer:\nThe square is red.")]).ids.tolist()
    cut = tokenizer.encode([Text("### Answer:\n"), Text("The square is red.", supervised=True)])
    assert cut.ids.tolist() != whole
    assert tokenizer.decode(cut.ids[~cut.supervised]) == "### Answer:\n"
    assert tokenizer.decode(cut.ids[cut.supervised]) == "The square is red."


def test_a_model_that_spells_a_special_token_is_kept_from_it(tokenizers):
    tokenizer = tokenizers["unigram"]
    alone = Tokenizer.from_str(tokenizer._tokenizer.to_str())
    alone.encode_special_tokens = True
    assert tokenizer.end_id in alone.encode("a</s>b").ids, "this shape is here because of that"
    ids = tokenizer.encode([Text("a</s>b")]).ids.tolist()
    assert tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == "a</s>b"


def test_parts_without_a_boundary_between_them_are_one_running_text(tokenizers):
    tokenizer = tokenizers["across_lines"]
    one = tokenizer.encode([Text("### Answer:\nThe square")])
    two = tokenizer.encode([Text("### Answer:\n"), Text(""), Text("The square")])
    assert one.ids.tolist() == two.ids.tolist()


def test_llama_puts_its_prefix_blank_where_the_tokenizer_does_and_nowhere_else(tokenizers):
    tokenizer = tokenizers["llama"]
    encoded = tokenizer.encode([Control("begin"), Text("a\n"), Text("The", supervised=True)])
    spelled = [tokenizer._tokenizer.id_to_token(i) for i in encoded.ids.tolist()]
    assert spelled == ["<s>", "\u2581a", "<0x0A>", "T", "he"]


def test_all_bytes_of_a_character_share_its_mask(tokenizers):
    tokenizer = tokenizers["llama"]
    parts = [Text("\U0001f600\n"), Text("\U0001f600", supervised=True)]
    encoded = tokenizer.encode(parts)
    assert encoded.supervised.tolist() == [False] * 6 + [True] * 4


def test_added_tokens_that_are_not_special_stay_text_too_but_blanks_do_not(tmp_path):
    added = [AddedToken("<tool>", special=False), AddedToken("    ", special=False)]
    tokenizer = TextTokenizer.load(toy_tokenizer(tmp_path / "added", added=added))
    tool, blanks = (tokenizer._tokenizer.token_to_id(token.content) for token in added)
    ids = tokenizer.encode([Text("x <tool> y    z")]).ids.tolist()
    assert tool not in ids
    assert blanks in ids
    assert tokenizer.decode(ids) == "x <tool> y    z"


def test_image_is_the_only_token_added(tmp_path):
    folder = toy_tokenizer(tmp_path / "plain")
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = TextTokenizer.load(folder)
    assert tokenizer.image_id == plain.get_vocab_size()
    assert tokenizer.num_ids == plain.get_vocab_size() + 1


def test_an_image_token_that_is_there_is_used(tmp_path):
    folder = toy_tokenizer(tmp_path / "has", added=[AddedToken(IMAGE_TOKEN), AddedToken("<later>")])
    tokenizer = TextTokenizer.load(folder)
    assert tokenizer.image_id == tokenizer.num_ids - 2


def test_the_begin_token_is_left_out_if_the_tokenizer_says_so(tmp_path):
    folder = toy_tokenizer(tmp_path / "quiet")
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert TextTokenizer.load(folder).begin_id is None


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_tokenizer_encodes_as_before_and_saves_the_same_bytes(tokenizers, shape, tmp_path):
    tokenizer = tokenizers[shape]
    tokenizer.save(tmp_path / "once")
    again = TextTokenizer.load(tmp_path / "once")
    again.save(tmp_path / "twice")
    parts = VisualChatTemplate().dialogue([TextRound(num_images=1, question="q </s>", answer="a")])
    assert again.encode(parts).ids.tolist() == tokenizer.encode(parts).ids.tolist()
    assert again.fingerprint == tokenizer.fingerprint
    for file in (tmp_path / "once").iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes()


def test_transformers_reads_a_saved_tokenizer_with_the_same_ids(tokenizers, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers["llama"].save(tmp_path)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    text = "You are able to understand.\n\n### Question:\nWhat?"
    ours = tokenizers["llama"].encode([Control("begin"), Text(text)]).ids.tolist()
    assert fast(text)["input_ids"] == ours
    assert len(fast) == tokenizers["llama"].num_ids


def test_shapes_have_different_fingerprints(tokenizers):
    assert len({tokenizer.fingerprint for tokenizer in tokenizers.values()}) == len(SHAPES)


def test_a_changed_tokenizer_is_refused_naming_both_fingerprints(tokenizers, tmp_path):
    tokenizers["byte_level"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": None}))
    ours, theirs = tokenizers["byte_level"].fingerprint, tokenizers["no_begin"].fingerprint
    with pytest.raises(
        ValueError, match=rf"another tokenizer.*{ours}.*has [0-9a-f]{{64}}"
    ) as error:
        TextTokenizer.load(tmp_path)
    assert theirs not in str(error.value)


def test_a_tokenizer_without_end_token_is_refused_saying_what_to_do(tmp_path):
    folder = toy_tokenizer(tmp_path / "endless", end=None)
    with pytest.raises(ValueError, match=r'endless names no end token.*"eos_token".*config\.json'):
        TextTokenizer.load(folder)


def test_an_end_token_that_is_in_no_vocabulary_is_refused(tmp_path):
    folder = toy_tokenizer(tmp_path / "typo")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</S>"}')
    with pytest.raises(ValueError, match=r"end token '</S>' of .*typo is not in its tokenizer"):
        TextTokenizer.load(folder)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json in .*save_pretr"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "is not a tokenizer of the"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "config.json is not"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "holds a list; want"),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line(tmp_path, spoil, message):
    folder = toy_tokenizer(tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        TextTokenizer.load(folder)
    assert "\n" not in str(error.value)


def test_a_lone_surrogate_is_refused_and_located(tokenizers):
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        tokenizers["byte_level"].encode([Text("ab\ud800")])


def test_arrays_are_int32_and_bool(tokenizers):
    encoded = tokenizers["byte_level"].encode(VisualChatTemplate().opening())
    assert (encoded.ids.dtype, encoded.supervised.dtype) == (np.int32, np.bool_)


@pytest.mark.parametrize(
    "file, content, problem",
    [
        ("tokenizer.json", b"[" * 100_000, "is not a tokenizer of the tokenizers library"),
        ("tokenizer.json", b"\xff", "is not UTF-8"),
        ("tokenizer_config.json", b"[" * 100_000, "is not JSON"),
        ("tokenizer_config.json", b'{"eos_token": ["</s>"]}', r"eos_token is \['</s>'\], wanted"),
        ("tokenizer_config.json", b'{"eos_token": {"content": 5}}', "eos_token is"),
        ("tokenizer_config.json", b'{"eos_token": "</s>", "bos_token": 7}', "bos_token is 7"),
        ("fingerprint.json", b"7", "holds a int"),
    ],
)
def test_an_odd_file_of_a_tokenizer_is_refused_in_one_line(tmp_path, file, content, problem):
    folder = toy_tokenizer(tmp_path / "odd")
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        TextTokenizer.load(folder)
    assert str(error.value).isprintable()


def test_a_failure_inside_the_tokenizers_library_is_an_error_of_one_line(tmp_path):
    """A panic of the library is none of Python's exceptions."""
    folder = toy_tokenizer(tmp_path / "odd")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Prepend", "prepend": ""}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cannot encode: index out of bounds") as error:
        _ = TextTokenizer.load(folder).fingerprint
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["tokenizer.json", "fingerprint.json", "chat_template.jinja"])
def test_no_pipe_is_read_as_a_file_of_a_tokenizer(tmp_path, name):
    folder = toy_tokenizer(tmp_path / "odd")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=rf"{name} is a pipe, wanted a plain file"):
        TextTokenizer.load(folder)
