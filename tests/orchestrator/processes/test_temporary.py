"""What a worker has in the folder for temporary files, and who removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.processes import temporary

MAKING = """
import sys
from orchestrator.processes.temporary import make_temporary_folder
print(make_temporary_folder(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def worker():
    """A process that has such a folder as long as it lives, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def make_old(folder):
    os.utime(folder / temporary.LOCK, (0, 0))


def test_the_folder_of_a_killed_worker_goes_with_the_next_one_and_that_of_a_living_one_stays():
    (dead, left), (living, kept), (newly, new) = worker(), worker(), worker()
    make_old(left)
    make_old(kept)
    for process in (dead, newly):
        process.send_signal(signal.SIGKILL)
        process.communicate()

    next_one, own = worker()

    assert [folder.exists() for folder in (left, kept, new, own)] == [False, True, True, True]
    for process in (living, next_one):
        process.communicate()


def test_who_ends_a_worker_can_remove_its_folder():
    (one, folder), (other, kept) = worker(), worker()
    one.communicate()
    temporary.remove_folders_of(one.pid)

    assert (folder.exists(), kept.exists()) == (False, True)
    other.communicate()
