"""Outside the data folder a run leaves nothing: no file, process, socket or shared memory, however
it ends."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

PIPELINE = """
    import multiprocessing, os, pathlib, sys, time
    from multiprocessing import shared_memory

    here = pathlib.Path(__file__).parent

    @step
    def uses(last: bool):
        shared = shared_memory.SharedMemory(name="{name}" + str(last), create=True, size=1000)
        manager = multiprocessing.Manager()
        manager.list(range(3))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.map(abs, range(3))
        if last:
            (here / "worker").write_text(str(os.getppid()))
            (here / "began").touch()
            time.sleep({seconds})
        return 1

    @pipeline
    def using():
        uses.options(name="second").after(uses.options(name="first")(False))(True)
"""


@pytest.fixture
def here(place_in, tmp_path, wait_until):
    """A place with an empty temp folder of its own, whose path is short enough for sockets."""
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    made = place_in(tmp_path / "place", {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": ""})
    made.temporary, made.shared = temporary, f"orc{secrets.token_hex(4)}"
    yield made
    wait_until(lambda: not made.processes())
    shutil.rmtree(temporary)


def left(here):
    """What is there of a run outside its data folder, but for the one folder that a user has for
    all sockets."""
    sockets = [
        line.split()[-1]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if str(here.temporary) in line
    ]
    memory = [name for name in os.listdir("/dev/shm") if here.shared in name]
    return {
        "files": sorted(
            str(path)
            for path in here.temporary.rglob("*")
            if path.name != f"orchestrator-{os.geteuid()}"
        ),
        "processes": here.processes(),
        "sockets": sockets,
        "shared memory": memory,
    }


NOTHING = {"files": [], "processes": [], "sockets": [], "shared memory": []}


def assert_nothing_left(here, within_s=10.0):
    limit = time.monotonic() + within_s
    while left(here) != NOTHING and time.monotonic() < limit:
        time.sleep(0.05)
    assert left(here) == NOTHING


ENDS = {
    "by itself": lambda process: None,
    "by Ctrl-C": lambda process: process.send_signal(signal.SIGINT),
    "by Ctrl-C twice": lambda process: (
        process.send_signal(signal.SIGINT),
        process.send_signal(signal.SIGINT),
    ),
    "killed": lambda process: process.kill(),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_run_leaves_nothing_however_it_ends(here, wait_until, how):
    file = here.write(
        "using.py", PIPELINE.format(name=here.shared, seconds=0 if how == "by itself" else 600)
    )
    with here.start("run", file) as process:
        if how != "by itself":
            wait_until((here.folder / "began").exists, 60)
            ENDS[how](process)
        out, err = process.communicate(timeout=120)
    assert how != "by itself" or process.returncode == 0, out + err

    assert_nothing_left(here)


@pytest.mark.parametrize("whom", ["worker", "child"])
def test_a_worker_that_is_killed_leaves_nothing(here, wait_until, whom):
    file = here.write(
        "using.py",
        PIPELINE.format(name=here.shared, seconds=5).replace("@step", "@step(lost_attempts=2)"),
    )
    with here.start("run", file) as process:
        wait_until((here.folder / "began").exists, 60)
        worker = psutil.Process(int((here.folder / "worker").read_text()))
        for each in worker.children() if whom == "child" else [worker]:
            with suppress(psutil.NoSuchProcess):
                if not any("guardian" in word for word in each.cmdline()):
                    each.kill()
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err

    assert_nothing_left(here)
