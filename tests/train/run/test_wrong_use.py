"""Wrong use of `vchat-train` ends with one clear line and exit code 2, before torch is imported."""

import pytest

from vchat_testing.training_runs import launch_run, write_run

pytestmark = pytest.mark.xdist_group("launches")


@pytest.mark.parametrize("launcher", ["alone", "deepspeed"])
def test_a_misspelt_key_is_wrong_use_under_every_launcher(tmp_path, launcher):
    run_file = write_run(tmp_path, shards=tmp_path)
    run_file.write_text(run_file.read_text().replace("rows_per_step", "row_per_step"))
    done = launch_run(run_file, processes=1, launcher=launcher)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "row_per_step" in line]
    assert len(lines) == 1
    assert "unknown key 'row_per_step' in [batch]; did you mean 'rows_per_step'?" in lines[0]


def test_shards_that_are_not_there_fail_in_one_line(tmp_path):
    done = launch_run(write_run(tmp_path, shards=tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no folder")
