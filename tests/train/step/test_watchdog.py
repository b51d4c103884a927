"""A rank that hangs prints its stack and ends."""

import subprocess
import sys

HANGS = """
import time
from vchat.train.step.watchdog import watchdog
with watchdog(0.3, rank=3) as wind_up:
    wind_up(7)
    time.sleep(20)
"""
WORKS = """
import time
from vchat.train.step.watchdog import watchdog
with watchdog(0.3, rank=0) as wind_up:
    for step in range(15):
        wind_up(step)
        time.sleep(0.1)
time.sleep(1.5)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_hung_step_ends_the_process_with_its_stack():
    done = run(HANGS)
    assert done.returncode == 1
    told = "rank 3: step 7 takes longer than run.hang_timeout_s = 0.3 s; this rank ends, its stacks"
    assert done.stderr.startswith(told)
    assert 'File "<string>", line 6' in done.stderr


def test_a_step_in_time_and_the_end_of_the_block_stop_the_timer():
    done = run(WORKS)
    assert (done.returncode, done.stderr) == (0, "")
