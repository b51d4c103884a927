"""Whatever a text holds, a whole build stores it unaltered, and no part of it becomes a control."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vchat.base.json_text import DAMAGED
from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice, TemplateChoice
from vchat.prep.pipeline.build import build_shards
from vchat.shards.format.open_shards import open_shards
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import TextRound
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.chat_shapes import TOKENS, chat_tokenizer
from vchat_testing.raw_data import write_image
from vchat_testing.toy import toy_tokenizer

ODD = (
    "### Answer:\n",
    "### Question:\n",
    "### Image 1:\n",
    "</s>",
    "<s>",
    *TOKENS["qwen_2_5"],
    "<|im_start|>assistant\n",
    "USER: ",
    "\x00",
    "\x1b[2J\x7f",
    "\U0001f469\u200d\U0001f680",
    "\u05e9\u05dc\u05d5\u05dd \u202e",
    "e\u0301",
    "\ufffd\ufeff",
    "\r\n",
    "\\n\\u0000",
)
TEXTS = (
    st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), min_size=1, max_size=5)
    .map(lambda some: "".join(some).strip())
    .filter(lambda text: text and DAMAGED not in text)
)
DIALOGUES = st.lists(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), min_size=1, max_size=8
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A folder with a tokenizer for each template, and a picture for each dialogue."""
    folder = tmp_path_factory.mktemp("raw")
    toy_tokenizer(folder / "visualchat")
    chat_tokenizer(folder / "chat", shape="qwen_2_5")
    for number in range(8):
        write_image(folder / f"{number}.jpg", number=number)
    return folder


def row(number: int, pairs) -> dict[str, object]:
    """One line in OpenAI's form; the picture is a part of its own."""
    messages = []
    for position, (question, answer) in enumerate(pairs):
        image = [{"type": "image", "image": f"{number}.jpg"}] if position == 0 else []
        text = {"type": "text", "text": question}
        messages.append({"role": "user", "content": [*image, text]})
        messages.append({"role": "assistant", "content": answer})
    return {"id": f"{number}", "messages": messages}


@pytest.mark.parametrize("template", ["visualchat", "chat"])
@settings(max_examples=8, deadline=None)
@given(dialogues=DIALOGUES, is_array=st.booleans(), escaped=st.booleans())
def test_odd_texts_come_through_a_build_unaltered_and_stay_text(
    raw, template, dialogues, is_array, escaped
):
    rows = [row(number, pairs) for number, pairs in enumerate(dialogues)]
    lines = [json.dumps(one, ensure_ascii=escaped) for one in rows]
    content = f"[{', '.join(lines)}]" if is_array else "\n".join(lines)
    (raw / "mine.json").write_bytes(content.encode())
    with tempfile.TemporaryDirectory() as out:
        done = build_shards(
            Recipe(
                source=(SourceChoice(name="mine", file=str(raw / "mine.json"), concatenate=3),),
                tokenizer=str(raw / template),
                template=TemplateChoice(name=template),
                out=out,
                eval_fraction=0.0,
                image=ImagePolicy(size=16),
            )
        )
        assert done.report["sources"]["mine"]["used_records"] == len(dialogues)
        check(Path(out), dialogues, template=template)


def check(out: Path, dialogues, *, template: str) -> None:
    """Check every stored sample against the texts that its records were written with."""
    shards = open_shards(out)
    tokenizer = shards.tokenizer()
    found = []
    for line in shards.index().to_pylist():
        sample = shards.read_sample(line)
        numbers = [int(record.record_id) for record in sample.records]
        found += numbers
        pairs = [pair for number in numbers for pair in dialogues[number]]
        assert [(one.question, one.answer) for one in sample.rounds] == pairs
        check_tokens(tokenizer, sample, make_template(template, system=None, tokenizer=tokenizer))
    assert sorted(found) == list(range(len(dialogues)))


def check_tokens(tokenizer: TextTokenizer, sample, template) -> None:
    """Check ids against texts: the answers whole, and only the template's own control tokens."""
    end = tokenizer.decode([tokenizer.special_id(template.end)])
    supervised = tokenizer.decode(sample.ids[sample.supervised].tolist())
    assert supervised == "".join(one.answer + end for one in sample.rounds)
    plain = [
        TextRound(num_images=len(one.images), question="q", answer="a") for one in sample.rounds
    ]
    wanted = tokenizer.encode(template.dialogue(plain)).ids.tolist()
    assert sample.ids.tolist().count(tokenizer.image_id) == len(sample.images)
    for name in ("<s>", "</s>", "<image>", "<|endoftext|>", *TOKENS["qwen_2_5"]):
        token = tokenizer._tokenizer.token_to_id(name)
        assert token is None or sample.ids.tolist().count(token) == wanted.count(token), name
    for one in sample.rounds:
        assert one.question in tokenizer.decode(sample.ids.tolist())
