"""Process trees are ended whole, and no more than that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from orchestrator.processes.tree import ProcessTree, runs
from tests.support.site.workers import count_named

NESTED = "sleep 600 & sh -c 'trap \"\" TERM; sleep 600 & sleep 600' & wait"


@pytest.fixture
def root(wait_until):
    """Return a shell with four processes below it."""
    with subprocess.Popen(["sh", "-c", NESTED]) as started:
        process = psutil.Process(started.pid)
        wait_until(lambda: len(process.children(recursive=True)) == 4)
        yield process
        for left in (process, *process.children(recursive=True)):
            left.kill()


def test_a_tree_is_killed_with_its_root(root):
    tree = ProcessTree(root.pid)

    def kill_root():
        root.kill()
        return True

    assert tree.kill(5, kill_root)
    assert tree.size == 4
    assert not runs(root)
    assert not any(map(runs, tree.members()))


def test_a_root_that_is_let_go_runs_on(root):
    tree = ProcessTree(root.pid)

    def let_go():
        root.send_signal(signal.SIGCONT)
        return False

    assert tree.kill(5, let_go)
    assert not any(map(runs, tree.members()))
    assert tree.size == 4


def test_each_process_is_asked_to_end_before_what_it_has_started(tmp_path, wait_until):
    script, depth = tmp_path / "nested.sh", 8
    script.write_text('[ "$1" -gt 0 ] && sh "$0" $(($1 - 1)) & sleep 600 & wait')
    with subprocess.Popen(["sh", script, str(depth)]) as started:
        root = psutil.Process(started.pid)
        tree = ProcessTree(root.pid)
        try:
            wait_until(lambda: count_named(tree.look(), "sleep") == depth + 1)
            for _ in range(2):  # at a later look, too
                place = {process.pid: number for number, process in enumerate((root, *tree.look()))}
                assert all(place[it.ppid()] < place[it.pid] for it in tree.look())
        finally:
            tree.kill(5, lambda: root.kill() is None)


def test_pythons_own_trackers_are_left_alone(wait_until):
    code = (
        "from multiprocessing import resource_tracker as t; t.ensure_running(); import time;"
        " time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as started:
        process = psutil.Process(started.pid)
        wait_until(
            lambda: any(
                "resource_tracker" in word for it in process.children() for word in it.cmdline()
            )
        )

        assert ProcessTree(started.pid).look() == []
        started.kill()


def test_a_look_reads_the_processes_of_the_machine_once_however_many_members_live_or_have_ended(
    wait_until,
):
    with subprocess.Popen(
        ["sh", "-c", "for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 600 & done; wait"]
    ) as started:
        wait_until(lambda: len(psutil.Process(started.pid).children()) == 10)
        tree = ProcessTree(started.pid)
        for member in tree.members()[:5]:
            member.kill()
        wait_until(lambda: len(tree.look()) == 5)
        listed = []
        is_listening = True

        def note(event, arguments):
            if (
                is_listening
                and event in ("os.listdir", "os.scandir")
                and os.fsdecode(arguments[0]) == "/proc"
            ):
                listed.append(event)

        sys.addaudithook(note)
        try:
            left = tree.look()
        finally:
            is_listening = False
            tree.kill(5)
            started.kill()

        assert (len(left), tree.size, len(listed)) == (5, 10, 1)


def test_what_a_process_with_the_id_of_a_dead_member_starts_is_no_member(monkeypatch, root):
    (parent,) = (member for member in ProcessTree(root.pid).members() if member.name() == "sh")
    tree = ProcessTree()
    tree.add([parent])
    # so psutil tells of it
    monkeypatch.setattr(psutil.Process, "is_running", lambda process: process != parent)

    assert tree.look() == []
    assert tree.members() == [parent]


@pytest.mark.parametrize("name", ["object_tracker", "resource_tracker"])
def test_a_process_that_only_bears_the_name_of_a_tracker_is_ended_like_any_other(wait_until, name):
    with subprocess.Popen(["sh", "-c", f"sh -c 'sleep 600 & wait' {name}.py & wait"]) as started:
        wait_until(lambda: len(psutil.Process(started.pid).children(recursive=True)) == 2)
        tree = ProcessTree(started.pid)

        assert tree.kill(5)
        assert tree.size == 2
        started.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of two users")
def test_a_member_that_belongs_to_another_user_keeps_no_other_from_being_ended():
    code = """
import os, subprocess
from orchestrator.processes.tree import ProcessTree, runs

foreign = subprocess.Popen(["sleep", "600"])
os.setresuid(65534, 65534, 0)
own = subprocess.Popen(["sleep", "600"])
tree = ProcessTree(os.getpid())
tree.terminate()
is_gone = tree.kill(60)  # far more than the test waits for it
left = [process.pid for process in tree.members() if runs(process)]
os.setresuid(0, 0, 0)
foreign.kill()
print(is_gone, left == [foreign.pid])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)

    assert done.stdout == "False True\n", done.stderr
