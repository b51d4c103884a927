"""Chat templates as parts: equal to what transformers renders, text that stays text, errors."""

import gc
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from vchat.shards.text.chat_template import ChatTemplate, TextChanged
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import SYSTEM, Control, Special, Text, TextRound
from vchat.shards.text.template_program import TemplateProgram
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.chat_shapes import LLAMA_3, QWEN_2_5, TEMPLATES, TOKENS, chat_tokenizer
from vchat_testing.toy import toy_tokenizer

SHAPES = tuple(TEMPLATES)
ENDS = {"llama_3": "<|eot_id|>", "qwen_2_5": "<|im_end|>"}
SYSTEM_TEXT = {"llama_3": "Be brief.", "qwen_2_5": "<|im_end|> Be brief."}
ODD = (
    *(token for tokens in TOKENS.values() for token in tokens),
    "<image>",
    "</s>",
    "<s>",
    "\x00",
    "\U0001f600\u200d",
    "\u05e9\u05dc\u05d5\u05dd \u200f",
    "{{ bos_token }}",
    "e\u0301",
    " \n",
    "assistant\n\n",
    "The square is red.",
)
TEXTS = (
    st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), max_size=5)
    .map(lambda texts: "".join(texts).strip())
    .filter(bool)
)
ROUNDS = st.lists(
    st.builds(TextRound, num_images=st.integers(0, 2), question=TEXTS, answer=TEXTS),
    min_size=1,
    max_size=3,
)
PLAIN = [
    TextRound(num_images=0, question="What color is it?", answer="The square is red."),
    TextRound(num_images=0, question="How many?", answer="Two circles."),
]


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> dict[str, tuple[TextTokenizer, ChatTemplate]]:
    found = {}
    for shape in SHAPES:
        folder = chat_tokenizer(tmp_path_factory.mktemp("chat") / shape, shape=shape)
        tokenizer = TextTokenizer.load(folder)
        system = SYSTEM_TEXT.get(shape)
        found[shape] = tokenizer, make_template("chat", system=system, tokenizer=tokenizer)
    return found


def template_of(folder, template: str, *, system: str | None = None) -> ChatTemplate:
    """A chat template on the tokenizer of the shape `qwen_2_5`."""
    path = chat_tokenizer(folder / "tokenizer", shape="qwen_2_5", template=template)
    return ChatTemplate(TextTokenizer.load(path).chat_template_spec(), system=system)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=40, deadline=None)
@given(rounds=ROUNDS)
def test_the_ids_of_a_prompt_are_an_exact_prefix_of_the_training_ids(templates, shape, rounds):
    tokenizer, template = templates[shape]
    trained = tokenizer.encode(template.dialogue(rounds))
    for asked, last in enumerate(rounds):
        open_round = TextRound(num_images=last.num_images, question=last.question, answer=None)
        prompt = tokenizer.encode(template.dialogue([*rounds[:asked], open_round]))
        n = len(prompt.ids)
        assert prompt.ids.tolist() == trained.ids[:n].tolist()
        assert not prompt.supervised[-1]
        assert trained.supervised[n]


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=40, deadline=None)
@given(rounds=ROUNDS)
def test_rounds_encoded_one_at_a_time_give_the_ids_of_the_dialogue(templates, shape, rounds):
    tokenizer, template = templates[shape]
    ids: list[int] = []
    first_image = 1
    for number, r in enumerate(rounds):
        parts = template.between() if number else template.opening()
        parts += template.round(
            r.question, r.answer, num_images=r.num_images, first_image=first_image
        )
        ids += tokenizer.encode(parts).ids.tolist()
        first_image += r.num_images
    assert ids == tokenizer.encode(template.dialogue(rounds)).ids.tolist()


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=40, deadline=None)
@given(rounds=ROUNDS)
def test_the_answers_and_the_end_tokens_of_the_template_are_supervised(templates, shape, rounds):
    tokenizer, template = templates[shape]
    encoded = tokenizer.encode(template.dialogue(rounds))
    end = ENDS.get(shape, "</s>")
    assert tokenizer.decode([tokenizer.special_id(template.end)]) == end
    wanted = "".join(f"{r.answer}{end}" for r in rounds)
    assert tokenizer.decode(encoded.ids[encoded.supervised]) == wanted
    assert (encoded.ids[encoded.supervised] == tokenizer.special_id(template.end)).sum() == len(
        rounds
    )


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=40, deadline=None)
@given(rounds=ROUNDS)
def test_no_text_becomes_a_special_token(templates, shape, rounds):
    tokenizer, template = templates[shape]
    plain = [TextRound(num_images=r.num_images, question="q", answer="a") for r in rounds]
    with_odd, with_plain = (
        tokenizer.encode(template.dialogue(texts)).ids.tolist() for texts in (rounds, plain)
    )
    names = (*TOKENS[shape], "<s>", "</s>", "<|begin_of_text|>", "<|endoftext|>", "<image>")
    for token in filter(None, map(tokenizer._tokenizer.token_to_id, names)):
        assert with_odd.count(token) == with_plain.count(token)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_dialogue_has_the_ids_that_transformers_gives_it(templates, shape):
    transformers = pytest.importorskip("transformers")
    tokenizer, template = templates[shape]
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        chat_template=TEMPLATES[shape],
        bos_token=template.spec.variables.get("bos_token"),
        eos_token=template.spec.variables["eos_token"],
    )
    system = SYSTEM_TEXT.get(shape)
    messages = [] if system is None else [{"role": "system", "content": "Be brief."}]
    for r in PLAIN:
        messages.append({"role": "user", "content": r.question})
        messages.append({"role": "assistant", "content": r.answer})
    found = tokenizer.encode(
        (template if system is None else template.with_system("Be brief.")).dialogue(PLAIN)
    ).ids.tolist()
    wanted = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    if shape == "mistral":  # the blank before an answer is cut off it
        assert theirs.decode(found) == theirs.decode(wanted)
    else:
        assert found == wanted[: len(found)]
    assert tokenizer.decode(wanted[len(found) :]).strip() == ""


def test_a_round_of_the_llama_3_shape_is_as_written(templates):
    _, template = templates["llama_3"]
    head, tail = Special("<|start_header_id|>"), Special("<|end_header_id|>")
    assert template.opening() == [
        Control("begin"),
        *(head, Text("system"), tail, Text("\n\n"), Text("Be brief."), Special("<|eot_id|>")),
        *(head, Text("user"), tail, Text("\n\n")),
    ]
    assert template.between() == [head, Text("user"), tail, Text("\n\n")]
    assert template.round("Q", "A", num_images=1, first_image=3) == [
        *(Text("### Image 3:\n"), Control("image"), Text("\n"), Text("\n"), Text("Q")),
        *(Special("<|eot_id|>"), head, Text("assistant"), tail, Text("\n\n")),
        *(Text("A", supervised=True), Special("<|eot_id|>", supervised=True)),
    ]


def test_a_template_keeps_its_own_system_text_where_none_is_given(tmp_path):
    template = template_of(tmp_path, QWEN_2_5)
    assert Text("system\nYou are a toy.") in template.opening()
    assert Text("Hi.") in template.with_system("Hi.\n").opening()
    assert template.with_system("Hi.").digest != template.digest


def test_a_token_that_swallows_white_space_does_so_and_generation_marks_are_ignored(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% generation %}{{ m.content }}"
        "{{ '<|end|>\n' }}{% endgeneration %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    names = ("<|user|>", "<|assistant|>", "<|end|>")
    added = [AddedToken(name, rstrip=True, special=True) for name in names]
    folder = toy_tokenizer(tmp_path / "swallows", added=added)
    (folder / "chat_template.jinja").write_text(text)
    tokenizer = TextTokenizer.load(folder)
    found = tokenizer.encode(make_template("chat", tokenizer=tokenizer).dialogue(PLAIN)).ids
    assert "\n" not in tokenizer.decode(found.tolist())
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, chat_template=text, eos_token="</s>"
    )
    messages = [
        {"role": role, "content": content}
        for r in PLAIN
        for role, content in (("user", r.question), ("assistant", r.answer))
    ]
    assert found.tolist() == theirs.apply_chat_template(messages, return_dict=False)


def test_a_default_of_several_templates_is_used(tmp_path):
    path = toy_tokenizer(tmp_path / "several")
    (path / "tokenizer_config.json").write_text(
        '{"eos_token": "</s>", "chat_template": [{"name": "tools", "template": "x"}, {"name":'
        ' "default", "template": "{% for m in messages %}{{ m.content }}{{ eos_token if'
        " m.role == 'assistant' else ' => ' }}{% endfor %}\"}]}"
    )
    tokenizer = TextTokenizer.load(path)
    template = make_template("chat", tokenizer=tokenizer)
    parts = template.dialogue(PLAIN)
    assert tokenizer.decode(tokenizer.encode(parts).ids) == (
        "What color is it? => The square is red.</s>How many? => Two circles.</s>"
    )


@pytest.mark.parametrize("question, answer", [(" Why?", "So."), ("Why?", "So.\n")])
def test_a_text_that_the_template_trims_is_refused(templates, question, answer):
    _, template = templates["llama_3"]
    with pytest.raises(TextChanged, match=r"llama_3 trims white space: it writes .* where"):
        template.round(question, answer, num_images=0, first_image=1)


def test_a_text_that_the_template_shortens_is_refused_even_if_only_in_earlier_rounds(tmp_path):
    thinking = QWEN_2_5.replace(
        "'\n' + message.content +",
        "'\n' + (message.content if loop.last else message.content.split('</t>')[-1]) +",
    )
    template = template_of(tmp_path, thinking)
    template.round("q", "a", num_images=0, first_image=1)
    with pytest.raises(TextChanged, match=r"drops or alters text: it writes 'yes.*has 'so"):
        template.round("q", "so</t>yes", num_images=0, first_image=1)


@pytest.mark.parametrize(
    "template, system, problem",
    [
        ("{{ 1", None, r"is not valid, line 1"),
        ("{{ messages[0].content }}", None, r"drops .* message \(answer1\)"),
        ("{{ messages | map(attribute='content') | join }}", None, r"special token.*right after"),
        (
            "{% for m in messages | reverse %}{{ m.content }}<|im_end|>{% endfor %}",
            None,
            r"reorders the messages",
        ),
        (QWEN_2_5.replace("message.role +", "message.role ~ loop.index +"), None, r"by their num"),
        (
            QWEN_2_5.replace("assistant\n", "assistant\n<think>"),
            None,
            r"ends a prompt with '.*thin",
        ),
        (LLAMA_3.replace("<|eot_id|>", "<|unknown|>"), None, r"writes '<\|unknown.* wanted a spec"),
        (TEMPLATES["mistral"], "Hi.", r"refuses messages of system, user.*roles must alternate"),
        (LLAMA_3.replace("<|eot_id|>", "<|im_end|>"), " Hi. ", r"trims .*system text ' Hi. '"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_saying_what_it_does(
    tmp_path, template, system, problem
):
    with pytest.raises(ValueError, match=problem):
        template_of(tmp_path, template, system=system)


def test_a_tokenizer_without_a_chat_template_is_refused_saying_where_one_belongs(tmp_path):
    tokenizer = TextTokenizer.load(toy_tokenizer(tmp_path / "plain"))
    with pytest.raises(ValueError, match=r"plain has no chat template: neither chat_template\.jin"):
        make_template("chat", tokenizer=tokenizer)


def test_a_saved_tokenizer_brings_its_chat_template_along(templates, tmp_path):
    tokenizer, template = templates["llama_3"]
    tokenizer.save(tmp_path)
    again = TextTokenizer.load(tmp_path)
    assert make_template("chat", system="Be brief.", tokenizer=again).digest == template.digest


def test_a_system_text_can_be_given_and_changes_the_digest(templates):
    tokenizer, _ = templates["mistral"]
    default = make_template("visualchat", tokenizer=tokenizer)
    other = make_template("visualchat", system="Hi.\n", tokenizer=tokenizer)
    assert default.system == SYSTEM
    assert other.opening() == [Control("begin"), Text("Hi.\n")]
    assert default.digest != other.digest


def test_an_unknown_template_names_the_nearest(templates):
    tokenizer, _ = templates["mistral"]
    with pytest.raises(ValueError, match=r"unknown template 'visual_chat'.*'visualchat'"):
        make_template("visual_chat", tokenizer=tokenizer)


@pytest.mark.parametrize(
    "template, problem",
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "2 s"),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than 1,048,576"),
        ("{{ 'x' * 2000000 }}", "writes more than 1,048,576"),
        ("{{ 'x' * 10 ** 12 }}", "too much memory"),
        (
            "{% set n = namespace(x='x') %}"
            "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "too much memory",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "depth"),
        ("{{ 9 ** (9 ** 9) }}", "2 s"),
        ("{{ ''.__class__.__mro__ }}", "refuses messages|unsafe"),
    ],
)
def test_a_template_without_end_is_refused_within_seconds(tmp_path, template, problem):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=problem) as caught:
        template_of(tmp_path, template)
    assert str(tmp_path) in str(caught.value)
    assert time.perf_counter() - begin < 15


def test_a_template_that_loops_for_one_text_rejects_that_text_and_goes_on(tmp_path):
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    tricky = "{% if 'hang' in messages[0].content %}" + loop + "{% endif %}" + QWEN_2_5
    template = template_of(tmp_path, tricky)
    with pytest.raises(TextChanged, match="takes more than 2 s"):
        template.round("hang", "a", num_images=0, first_image=1)
    parts = template.round("q", "a", num_images=0, first_image=1)
    assert Text("a", supervised=True) in parts


def test_the_process_of_a_template_ends_with_its_program():
    program = TemplateProgram("{{ a }}")
    assert program.render({"a": "\ud800 \u2028"}) == "\ud800 \u2028"
    process = program._process
    del program
    gc.collect()
    assert process.poll() == 0
