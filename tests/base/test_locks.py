"""Locks between processes: exclusive, shared, freed when a process ends."""

import subprocess
import sys

import pytest

from vchat.base.locks import claim_file, lock_file, lock_folder

HOLD = """
import sys
from pathlib import Path
from vchat.base.locks import claim_file, lock_file, lock_folder
kind, path = sys.argv[1], Path(sys.argv[2])
lock = {"file": lock_file(path), "shared": lock_file(path, shared=True),
        "folder": lock_folder(path), "claim": claim_file(path)}[kind]
with lock:
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold():
    """Start a process that locks a path and holds it until it is killed."""
    processes = []

    def start(kind, path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, kind, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"locked\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_locked_file_is_refused_until_its_process_is_killed(tmp_path, hold):
    path = tmp_path / "new" / "lock"
    process = hold("file", path)
    with lock_file(path) as locked, lock_file(path, shared=True) as shared:
        assert not locked
        assert not shared
    process.kill()
    process.wait()
    with lock_file(path) as locked:
        assert locked


def test_shared_locks_admit_each_other_but_no_exclusive_one(tmp_path, hold):
    path = tmp_path / "lock"
    hold("shared", path)
    with lock_file(path, shared=True) as shared:
        assert shared
    with lock_file(path) as locked:
        assert not locked


def test_waiting_for_a_lock_ends_when_it_is_freed(tmp_path, hold):
    path = tmp_path / "lock"
    process = hold("file", path)
    process.stdin.write(b"\n")
    process.stdin.flush()
    with lock_file(path, wait_s=30) as locked:
        assert locked


def test_a_folder_lock_waits_for_the_other_process(tmp_path, hold):
    process = hold("folder", tmp_path / "new")
    process.stdin.write(b"\n")
    process.stdin.flush()
    with lock_folder(tmp_path / "new"):
        pass


def test_a_file_is_claimed_by_one_process_and_keeps_its_content(tmp_path, hold):
    path = tmp_path / "entry"
    process = hold("claim", path)
    path.write_bytes(b"half")
    with claim_file(path) as file:
        assert file is None
    process.kill()
    process.wait()
    with claim_file(path) as file:
        assert file is not None
        assert path.read_bytes() == b"half"


def test_a_claim_of_a_file_that_was_renamed_meanwhile_fails(tmp_path, monkeypatch):
    path = tmp_path / "entry"
    import fcntl

    real = fcntl.flock

    def finish_then_lock(file, operation):
        path.rename(tmp_path / "finished")
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", finish_then_lock)
    with claim_file(path) as file:
        assert file is None
