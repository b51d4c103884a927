"""Optimizer state or weights on a local disk: the run trains, and goes on.

Long, because DeepSpeed compiles its reader first: `make soak`.
"""

import shutil

import pytest

from vchat_testing.training_runs import (
    losses,
    prepare_deepspeed,
    run_here,
    training_shards,
    write_run,
)

SETTINGS = ["deepspeed.zero_stage=3", "run.steps=4", "run.save_every=2", "run.eval_every=0"]


def can_compile() -> bool:
    prepare_deepspeed()
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return AsyncIOBuilder().is_compatible(verbose=False)


def test_a_machine_without_the_library_is_refused_with_its_name(tmp_path, monkeypatch):
    prepare_deepspeed()
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda builder, verbose=False: False)
    run_file = write_run(tmp_path, shards=training_shards(tmp_path / "shards"))
    settings = ["deepspeed.offload_optimizer=nvme", f"deepspeed.nvme_folder={tmp_path}"]
    with pytest.raises(ValueError, match="offloading to nvme needs the library libaio"):
        run_here(run_file, *SETTINGS, *settings)


@pytest.mark.soak
@pytest.mark.parametrize(
    "what, width, precision",  # DeepSpeed swaps tensors of 1 MB or more
    [
        ("offload_optimizer", 512, "fp32"),  # no gradient is that large
        ("offload_optimizer", 4096, "fp32"),
        ("offload_optimizer", 4096, "bf16"),
        ("offload_parameters", 4096, "bf16"),
    ],
)
def test_a_run_on_nvme_is_equal_and_warns_if_it_does_not_resume_exactly(
    tmp_path, what, width, precision, caplog
):
    if not can_compile():
        pytest.skip("libaio and its headers are not installed")
    shards = training_shards(tmp_path / "shards")
    plain = write_run(tmp_path / "plain", shards=shards)
    large = ["model.decoder.hidden_size=128", f"model.decoder.intermediate_size={width}"]
    large += [f"train.precision={precision}"]
    run_here(plain, *SETTINGS, *large)
    run_file, out = write_run(tmp_path / "nvme", shards=shards), tmp_path / "nvme" / "out"
    place = [f"deepspeed.{what}=nvme", f"deepspeed.nvme_folder={tmp_path / 'disk'}"]
    settings = [*SETTINGS, *large, *place]
    run_here(run_file, *settings)
    first = losses(out)
    rounding = {"fp32": 1e-5, "bf16": 1e-4}[precision]
    assert first == pytest.approx(losses(plain.parent / "out"), abs=rounding)
    assert any(path.is_file() for path in (tmp_path / "disk").rglob("*"))
    shutil.rmtree(out / "step-000004")
    run_here(run_file, *settings)
    if what == "offload_parameters":
        assert losses(out) == first
    else:
        assert "moments of Adam, so they start anew" in caplog.text
        assert losses(out)[:3] == first[:3]
