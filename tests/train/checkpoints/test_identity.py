"""A run goes on only from a checkpoint of the same data, tokenizer, template and settings."""

from pathlib import Path

import pytest

from vchat_testing.training_runs import prepare_deepspeed


def checkpoint_of(shards: dict, settings: dict):
    from vchat.train.checkpoints.checkpoint import Checkpoint

    return Checkpoint(
        folder=Path("out/step-000004"), state={"settings": settings}, shards=shards, files={}
    )


FACTS = {"index_digest": "a1", "tokenizer_fingerprint": "b2", "template": {"name": "visualchat"}}


@pytest.mark.parametrize(
    "name, other, message",
    [
        (
            "index_digest",
            "a9",
            "another shard set than this run: index_digest 'a1' there, 'a9' here",
        ),
        (
            "tokenizer_fingerprint",
            "b9",
            "made with another tokenizer than this run: .* 'b2' there, 'b9' here",
        ),
        (
            "template",
            {"name": "chat"},
            "made with another template than this run: template.name 'visualchat' there, 'chat'",
        ),
    ],
)
def test_what_differs_is_named_with_both_digests(name, other, message):
    prepare_deepspeed()
    from vchat.train.checkpoints.identity import RunIdentity, check_same_run

    ours = RunIdentity(settings={}, shards=FACTS | {name: other})
    with pytest.raises(ValueError, match=message):
        check_same_run(ours, checkpoint_of(FACTS, {}))


def test_equal_facts_are_one_run():
    prepare_deepspeed()
    from vchat.train.checkpoints.identity import RunIdentity, check_same_run

    ours = RunIdentity(settings={"optimizer.lr": 1.0}, shards=FACTS)
    check_same_run(ours, checkpoint_of(FACTS, {"optimizer.lr": 1.0}))
    with pytest.raises(ValueError, match=r"optimizer.lr = 2.0, this run has 1.0 \(settings \w+ "):
        check_same_run(ours, checkpoint_of(FACTS, {"optimizer.lr": 2.0}))


def test_a_refusal_of_another_stage_says_how_to_start_from_the_weights():
    prepare_deepspeed()
    from vchat.train.checkpoints.identity import RunIdentity, check_same_run

    ours = RunIdentity(settings={"deepspeed.zero_stage": 3}, shards=FACTS)
    with pytest.raises(ValueError, match=r"zero_stage = 1, .* model.start_from = .*step-000004"):
        check_same_run(ours, checkpoint_of(FACTS, {"deepspeed.zero_stage": 1}))


@pytest.mark.parametrize(
    "old, new, told",
    [
        ({"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [1], "d": 3}}, ("b.d", "2", "3")),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": "x"}}, ("a.c", "not set", "'x'")),
        ({"a": "./llama"}, {"a": {"b": 1}}, ("a", "'./llama'", "a table")),
        ({"a": "x" * 300}, {"a": None}, ("a", "'" + "x" * 99 + "...", "not set")),
        ({"a": {"b": None}}, {"a": {}}, None),
    ],
)
def test_only_the_differing_field_is_named_at_any_depth(old, new, told):
    prepare_deepspeed()
    from vchat.train.checkpoints.identity import first_difference

    assert first_difference(old, new) == told
