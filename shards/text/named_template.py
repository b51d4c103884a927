"""Templates by name, as a recipe, a manifest or a checkpoint states it."""

from __future__ import annotations

from vchat.base.cli import WrongUse
from vchat.base.nearest import did_you_mean
from vchat.shards.text.chat_template import ChatTemplate
from vchat.shards.text.published_template import PublishedTemplate
from vchat.shards.text.template import Template, VisualChatTemplate
from vchat.shards.text.tokenizer import TextTokenizer

TEMPLATE_NAMES = (VisualChatTemplate.name, ChatTemplate.name, PublishedTemplate.name)


def make_template(name: str, *, system: str | None = None, tokenizer: TextTokenizer) -> Template:
    """Return the template of a name, with its default system text unless another is given.

    Args:
        name: `visualchat`, `chat` for the tokenizer's own chat template, or `visualchat-published`
            for models that the published code trained.
        system: The system text; None for the template's default.
        tokenizer: The tokenizer that will encode the parts.

    Raises:
        WrongUse: There is no such template; suggests a similar name, or lists all.
        ValueError: The tokenizer has no chat template, or one that cannot be used.
    """
    if name not in TEMPLATE_NAMES:
        raise WrongUse(f"unknown template {name!r}; {did_you_mean(name, TEMPLATE_NAMES)}")
    if name == ChatTemplate.name:
        return ChatTemplate(tokenizer.chat_template_spec(), system=system)
    kind = PublishedTemplate if name == PublishedTemplate.name else VisualChatTemplate
    return kind() if system is None else kind(system=system)
