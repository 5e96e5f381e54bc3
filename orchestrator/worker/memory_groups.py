"""Control groups (cgroup v2) that hold attempts to their memory, where a group is delegated to this
worker.

A group counts as delegated if systemd has marked it (`Delegate=yes` sets the attribute
`user.delegate`), or if it is the root of a container's own cgroup namespace. Any other group
belongs to whoever made it, though root may write there; then, with cgroup v1, and where the kernel
refuses, memory is watched (`worker.memory`).

    delegated group/                    where the worker was started (or its parent, with
    DelegateSubgroup=)
        orchestrator-main/              its processes: the kernel lets no group with processes limit
        its children orchestrator-step-MAIN-CHILD-N  the attempt with a limit that a child runs now;
        removed at its end

The kernel ends all of a group at once (`memory.oom.group`), the child included, and counts that in
`memory.events`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from celery.utils.log import get_logger

logger = get_logger(__name__)

MAIN = "orchestrator-main"
STEP = "orchestrator-step-"
_MOVES = 20  # looks at a group for processes that were started while others were moved
_MARKS = ("user.delegate", "trusted.delegate")


class NoGroups(Exception):
    """Control groups cannot be used here; the text says why."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The delegated group `home`, and the group below it in which this worker's processes are."""

    home: Path
    main: Path
    main_pid: int

    def of_child(self, pid: int) -> list[Path]:
        """Return the groups of a child's attempts, the latest one last: an earlier one may hold a
        daemon still."""
        return sorted(
            self.home.glob(f"{STEP}{self.main_pid}-{pid}-*"),
            key=lambda path: int(path.name.split("-")[-1]),
        )


_groups: Groups | None = None
_current: Path | None = None  # of this child's attempt
_numbers = itertools.count(1)


def prepare_groups() -> None:
    """Find out whether groups can be used, make them ready, and remove what dead workers have left;
    in the main process, before it has any child. The log says which way is used."""
    global _groups
    try:
        _groups = _prepare()
    except (OSError, NoGroups) as error:
        _groups = None
        logger.info(
            "the option memory is kept by watching: no control group can be used (%s)", error
        )
    else:
        logger.info("the option memory is kept by control groups in %s", _groups.home)
        remove_leftovers()


def enter_group(limit: int) -> bool:
    """Put this child into a new group with a limit in bytes; False if that cannot be done, so that
    it is watched."""
    global _current
    if _groups is None:
        return False
    group = _groups.home / f"{STEP}{_groups.main_pid}-{os.getpid()}-{next(_numbers)}"
    try:
        group.mkdir()
        (group / "memory.max").write_text(str(limit))
        (group / "memory.oom.group").write_text("1")
        with suppress(FileNotFoundError):  # a kernel without swap
            (group / "memory.swap.max").write_text("0")
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        logger.warning(
            "the memory of this attempt is watched: its control group cannot be made (%s)", error
        )
        _remove(group)
        return False
    _current = group
    return True


def leave_group() -> None:
    """Put this child back among the worker's processes. What it has started stays, and so does the
    group for it."""
    global _current
    group, _current = _current, None
    if group is None or _groups is None:
        return
    try:
        (_groups.main / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        logger.exception(
            "this process cannot leave the control group %s; its limit is taken off", group
        )
        (group / "memory.max").write_text("max")
    for old in _groups.of_child(os.getpid()):
        _remove(old)


def exceeded_in_group(pid: int) -> int | None:
    """Return how many bytes a dead child's last group held at most, if the kernel ended it for
    that; else None."""
    for group in _groups.of_child(pid)[-1:] if _groups else ():
        with suppress(OSError, ValueError, KeyError):
            events = dict(
                line.split() for line in (group / "memory.events").read_text().splitlines()
            )
            if int(events["oom_kill"]):
                return _peak(group)
    return None


def remove_groups_of(pid: int) -> None:
    """Remove the groups of a dead child in which nothing is left."""
    for group in _groups.of_child(pid) if _groups else ():
        _remove(group)


def remove_leftovers(**_: object) -> None:
    """Remove the empty groups of workers, and of this worker's children, that are gone."""
    for group in _groups.home.glob(f"{STEP}*-*-*") if _groups else ():
        main, child, _number = group.name.removeprefix(STEP).split("-")
        if not psutil.pid_exists(int(main)) or not psutil.pid_exists(int(child)):
            _remove(group)


def _remove(group: Path) -> None:
    with suppress(OSError):  # it still holds a process
        group.rmdir()


def _peak(group: Path) -> int:
    for name in ("memory.peak", "memory.max"):  # the first since Linux 5.19
        with suppress(OSError, ValueError):
            return int((group / name).read_text())
    return 0


def find_home() -> tuple[Path, Path]:
    """Return the group that may be divided, and that of this process: the same, or the one below
    it.

    Raise NoGroups, or OSError, where there is none.
    """
    own = _own_group()
    if is_delegated(own.parent) and "memory" in _words(own.parent / "cgroup.controllers"):
        return own.parent, own
    if not is_delegated(own):
        raise NoGroups(f"{own} is not delegated to the worker")
    return own, own


def _prepare() -> Groups:
    home, main = find_home()
    if main == home:
        main = home / MAIN
        main.mkdir(exist_ok=True)
        for _ in range(_MOVES):
            if not (pids := _words(home / "cgroup.procs")):
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    (main / "cgroup.procs").write_text(pid)
    (home / "cgroup.subtree_control").write_text("+memory")
    return Groups(home, main, os.getpid())


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            path = line.removeprefix("0::")
            break
    else:
        raise NoGroups("this system has no cgroup v2")
    for root, mounted_at in _mounts():
        if not Path(path).is_relative_to(root):
            continue
        own = mounted_at / Path(path).relative_to(root)
        if "memory" in _words(own / "cgroup.controllers") or "memory" in _words(
            own.parent / "cgroup.controllers"
        ):
            return own
        raise NoGroups(f"{own} has no memory controller of cgroup v2")
    raise NoGroups("cgroup v2 is not mounted")


def _mounts() -> Iterator[tuple[str, Path]]:
    """Return of each mount of cgroup v2 which group it shows, and where."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            _id, _parent, _device, root, mounted_at, *_options = fields.split(" ")
            yield root, Path(mounted_at)


def is_delegated(group: Path) -> bool:
    """Whether a group is ours to divide: marked by systemd, or the root of a container's cgroup
    namespace."""
    if not (group / "cgroup.type").exists():  # the root of all, or no group
        return False
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(group, mark) == b"1":
                return True
    return any(root == "/" and group == mounted_at for root, mounted_at in _mounts())


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except FileNotFoundError:  # above the mount, or the group has just been removed
        return []
