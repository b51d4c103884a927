"""A run goes on only from a checkpoint of the same data, tokenizer, template and settings."""

from pathlib import Path

import pytest
from training_runs import prepared


def checkpoint_of(shards: dict, settings: dict):
    from vchat.train.checkpoint import Checkpoint

    return Checkpoint(
        folder=Path("out/step-000004"), state={"settings": settings}, shards=shards, files={}
    )


FACTS = {"index_digest": "a1", "tokenizer_fingerprint": "b2", "template": {"name": "visualchat"}}


@pytest.mark.parametrize(
    "name, other, message",
    [
        ("index_digest", "a9", "made with other shards than this run: index_digest a1 there, a9"),
        ("tokenizer_fingerprint", "b9", "made with other tokenizer than this run: .* b2 there, b9"),
        (
            "template",
            {"name": "chat"},
            "made with other template than this run: .*visualchat.*chat",
        ),
    ],
)
def test_what_differs_is_named_with_both_digests(name, other, message):
    prepared()
    from vchat.train.identity import Identity, check_same_run

    ours = Identity(settings={}, shards=FACTS | {name: other})
    with pytest.raises(ValueError, match=message):
        check_same_run(ours, checkpoint_of(FACTS, {}))


def test_equal_facts_are_one_run():
    prepared()
    from vchat.train.identity import Identity, check_same_run

    ours = Identity(settings={"optimizer.lr": 1.0}, shards=FACTS)
    check_same_run(ours, checkpoint_of(FACTS, {"optimizer.lr": 1.0}))
    with pytest.raises(ValueError, match=r"optimizer.lr = 2.0, this run has 1.0 \(settings \w+ "):
        check_same_run(ours, checkpoint_of(FACTS, {"optimizer.lr": 2.0}))


def test_another_stage_says_how_to_begin_from_the_weights():
    prepared()
    from vchat.train.identity import Identity, check_same_run

    ours = Identity(settings={"deepspeed.zero_stage": 3}, shards=FACTS)
    with pytest.raises(ValueError, match=r"zero_stage = 1, .* model.start_from = .*step-000004"):
        check_same_run(ours, checkpoint_of(FACTS, {"deepspeed.zero_stage": 1}))
