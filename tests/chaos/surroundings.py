"""What others do around an installation: they push into its queues, halt its server, and fill its
disk."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import redis

from orchestrator.ledger.set_aside import dead_key, foreign_key
from orchestrator.messages.queues import entries, queue_keys
from orchestrator.settings.model import Settings

SET_ASIDE_LIMIT_S = 60.0
STORE_BYTES = 16 * 1024 * 1024
BUSY_AFTER_MS = 50
NONSENSE = [
    b"42", b"null", b"[]", b"{}", b"no JSON", b"\xff\xfe\x00", b"[" * 10_000,
    pickle.dumps({"task": "x"}),
    b'{"body": 5, "headers": [], "properties": 7}',
    b'{"body": "", "headers": {"task": "pipeline.step"}, "properties": {}}',
    b'{"body": "e30=", "headers": {"task": "pipeline.failure"}, "properties": {}}',
]  # fmt: skip
_BUSY = "local began = os.clock() while os.clock() - began < tonumber(ARGV[1]) do end"


class Strangers:
    """Others who push into a queue of ours: nonsense, and messages of another application."""

    def __init__(self, rng: Random, client: redis.Redis, settings: Settings) -> None:
        self._rng, self._client = rng, client
        self._prefix, self._queue = settings.key_prefix, settings.queue_of()
        self._lists = queue_keys(self._queue)
        self._foreign: set[str] = set()
        self._nonsense = 0

    def push_nonsense(self, meanwhile: Callable[[], None]) -> None:
        """Push malformed entries, and wait until they are put aside, as with foreign messages."""
        chosen = self._rng.sample(NONSENSE, 3)
        self._client.lpush(self._rng.choice(self._lists), *chosen)
        self._nonsense += len(chosen)
        self._wait(lambda: not self._left() and self._dead(), meanwhile)

    def push_foreign(self, meanwhile: Callable[[], None]) -> None:
        """Push messages into the list that is read first, and wait until they are kept.

        Queues are read without acknowledgements, so the one that a worker takes in the moment of
        its death is lost, as is what lies in a queue that is dropped: no harm of that kind is done
        meanwhile.
        """
        pushed = [self._message() for _ in range(self._rng.randint(1, 3))]
        self._client.lpush(self._lists[0], *pushed)
        self._foreign.update(pushed)
        self._wait(lambda: self._foreign <= set(self._kept()), meanwhile)

    def _wait(self, condition: Callable[[], object], meanwhile: Callable[[], None]) -> None:
        limit = time.monotonic() + SET_ASIDE_LIMIT_S
        while not condition() and time.monotonic() < limit:
            meanwhile()
            time.sleep(0.05)

    def violations(self, within_s: float) -> list[str]:
        """Return what is wrong with what was pushed, when nobody does harm any more."""
        limit = time.monotonic() + within_s
        while (left := self._left()) and time.monotonic() < limit:
            time.sleep(0.05)
        found = [f"{left} entries that are not ours still lie in the queue"] if left else []
        if missing := self._foreign - set(self._kept()):
            found.append(
                f"{len(missing)} of {len(self._foreign)} messages of somebody else are lost:"
                f" {missing}"
            )
        if self._nonsense and not self._dead():
            found.append(f"none of {self._nonsense} malformed entries is among the dead ones")
        return found

    def _dead(self) -> int:
        return int(self._client.llen(dead_key(self._prefix, self._queue)))

    def _kept(self) -> list[str]:
        return entries(self._client, foreign_key(self._prefix, self._queue), 0, -1)

    def _left(self) -> int:
        lying = [entry for key in self._lists for entry in entries(self._client, key, 0, -1)]
        return sum('"pipeline.step"' not in entry or entry.encode() in NONSENSE for entry in lying)

    def _message(self) -> str:
        name = f"shop.order-{self._rng.getrandbits(48):x}"
        headers = {"lang": "py", "task": "shop.order", "id": name, "origin": "gen1@shop"}
        properties = {
            "delivery_tag": name,
            "body_encoding": "base64",
            "delivery_info": {"routing_key": self._queue},
        }
        body = base64.b64encode(b"[[1], {}, {}]").decode()
        return json.dumps({"body": body, "content-type": "application/json",
        "content-encoding": "utf-8",
                           "headers": headers, "properties": properties}, separators=(", ",
                           " :"))  # fmt: skip


class ServerHarm:
    """A server that is alive and refuses, or that does not answer, for a moment."""

    def __init__(self, rng: Random, client: redis.Redis) -> None:
        self._rng, self._client = rng, client
        self._pid = int(client.info("server")["process_id"])
        client.config_set("busy-reply-threshold", BUSY_AFTER_MS)

    def busy(self) -> None:
        """A long script of somebody else: all others are answered BUSY."""
        self._client.eval(_BUSY, 0, self._rng.uniform(0.1, 1.0))

    def pause(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        try:
            time.sleep(self._rng.uniform(0.1, 1.5))
        finally:
            os.kill(self._pid, signal.SIGCONT)


class Disk:
    """A file system of its own for the artifact store, which can be full or read-only for a
    while."""

    def __init__(self, rng: Random, root: Path) -> None:
        self._rng, self._root = rng, root
        self._undone_at = float("inf")

    def fill(self) -> None:
        with suppress(OSError), (self._root / "ballast").open("ab", buffering=0) as file:
            while file.write(bytes(65536)):
                pass
        self._harmed()

    def make_read_only(self) -> None:
        with suppress(subprocess.CalledProcessError):  # somebody writes in this moment
            _mount("-o", "remount,ro", str(self._root))
            self._harmed()

    def undo(self, *, at_once: bool = False) -> None:
        """Make it usable again when its time has come, or now."""
        if at_once or self._undone_at < time.monotonic():
            self._undone_at = float("inf")
            _mount("-o", "remount,rw", str(self._root))
            (self._root / "ballast").unlink(missing_ok=True)

    def _harmed(self) -> None:
        self._undone_at = min(self._undone_at, time.monotonic() + self._rng.uniform(0.2, 3))


@contextmanager
def disk(rng: Random, root: Path) -> Iterator[Disk | str]:
    """Mount a small file system at `root` while the block lasts; yield why not where that cannot be
    done."""
    root.mkdir(parents=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(root))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        yield f"no file system can be mounted here: {error}"
        return
    try:
        yield Disk(rng, root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=False, capture_output=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
