"""An exit status that nobody can know is never 0, however it was lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from orchestrator.processes.exit_status import UNKNOWN_EXIT, KnownChild, how_it_ended

LOSSES = {
    "SIGCHLD is ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "SIGCHLD is set to SA_NOCLDWAIT": (
        """
        class Action(ctypes.Structure):
            _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * 128), ("flags", ctypes.c_int),
                        ("restorer", ctypes.c_void_p)]
        ctypes.CDLL(None).sigaction(int(signal.SIGCHLD), ctypes.byref(Action(0, (ctypes.c_ubyte * 128)(), 2, 0)), None)
    """
    ),
    "a library reaps all children": "signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, 0))",
}
ASK = {"wait": "child.wait()", "poll": "code_by_poll(child)", "wait for a while": "child.wait(30)"}
SCRIPT = """
import ctypes, os, signal, subprocess, sys, time
from orchestrator.processes.exit_status import KnownChild

def code_by_poll(child):
    while child.poll() is None:
        time.sleep(0.01)
    return child.returncode

{loss}
child = KnownChild(["/bin/sh", "-c", "read line; exit {code}"], stdin=subprocess.PIPE)
child.stdin.close()
print({ask})
"""


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_exit_status_is_unknown(loss, ask, code):
    script = SCRIPT.format(loss=textwrap.dedent(LOSSES[loss]), ask=ASK[ask], code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout.strip() == str(UNKNOWN_EXIT), done.stderr


def test_a_lost_exit_status_that_is_handed_on_is_no_success_either():
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.exit({UNKNOWN_EXIT})"])

    assert done.returncode != 0


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("true", "ended with exit code 0"),
        ("exit 3", "ended with exit code 3"),
        ("kill -9 $$", "was killed by signal 9 (SIGKILL)"),
        (f"kill -{signal.SIGRTMIN + 3} $$", f"was killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_known_exit_status_is_told(command, told):
    child = KnownChild(["/bin/sh", "-c", command])
    child.wait()

    assert how_it_ended(child.returncode).startswith(told)


def test_a_status_is_known_to_all_threads_that_wait(wait_until):
    import threading

    child = KnownChild(["/bin/sh", "-c", "read line; exit 4"], stdin=subprocess.PIPE)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(child.wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert child.poll() is None
    assert child.stdin is not None
    child.stdin.close()
    for thread in threads:
        thread.join(30)

    assert found == [4] * 4
    assert child.poll() == 4


def test_the_unknown_status_is_one_that_no_process_has():
    assert all(os.waitstatus_to_exitcode(code << 8) != UNKNOWN_EXIT for code in range(256))
