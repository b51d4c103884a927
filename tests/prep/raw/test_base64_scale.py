"""A base64 JSON that is larger than the memory allowed for it is converted and built."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "bench/base64_json.py"


@pytest.mark.soak
def test_two_gb_of_base64_json_take_at_most_600_mb_in_all_processes_together():
    done = subprocess.run([sys.executable, BENCHMARK, "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of the limit of 600 MB" in done.stdout
