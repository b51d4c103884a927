"""Chat templates of the usual shapes, and tokenizers that they fit; written for these tests."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken

from vchat_testing.toy import toy_tokenizer

LLAMA_3 = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
QWEN_2_5 = (
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}\n"
    "{%- else %}\n"
    "    {{- '<|im_start|>system\nYou are a toy.<|im_end|>\n' }}\n"
    "{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role != 'system' or not loop.first %}\n"
    "        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\n' }}\n"
    "{%- endif %}\n"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_CONTROLS = (
    MISTRAL.replace("[INST] ", "[INST]")
    .replace(" [/INST]", "[/INST]")
    .replace("' ' + message", "message")
)
TOKENS = {
    "llama_3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "qwen_2_5": ("<|im_start|>", "<|im_end|>"),
    "mistral": (),
    "mistral_controls": ("[INST]", "[/INST]"),
}
TEMPLATES = {
    "llama_3": LLAMA_3,
    "qwen_2_5": QWEN_2_5,
    "mistral": MISTRAL,
    "mistral_controls": MISTRAL_CONTROLS,
}
BEGINS = {"llama_3": "<|begin_of_text|>", "qwen_2_5": None}
ENDS = {"llama_3": "<|end_of_text|>", "qwen_2_5": "<|endoftext|>"}


def chat_tokenizer(folder: Path, *, shape: str, template: str | None = None) -> Path:
    """Write a byte-level tokenizer with the special tokens and template of a shape.

    Args:
        folder: Made if absent.
        shape: A key of `TEMPLATES`.
        template: Another chat template than the shape's.
    """
    toy_tokenizer(
        folder,
        begin=BEGINS.get(shape, "<s>"),
        end=ENDS.get(shape, "</s>"),
        added=[AddedToken(text, special=True, normalized=False) for text in TOKENS[shape]],
    )
    (folder / "chat_template.jinja").write_text(template or TEMPLATES[shape])
    return folder
