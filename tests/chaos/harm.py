"""What is done to an installation that runs: workers killed, halted and restarted, connections cut,
messages astray.

What others do around it is in `surroundings.py`.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
import redis

from orchestrator.messages.queues import attempt_in, entries, queue_keys
from orchestrator.messages.worker_command import worker_command
from orchestrator.settings.model import Settings
from tests.chaos.surroundings import Disk, ServerHarm, Strangers


class Crew:
    """Some workers of one pool, each started anew when it has ended."""

    def __init__(self, settings: Settings, size: int, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.names = [f"chaos-{number}" for number in range(size)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._halted: dict[
            str, tuple[float, list[psutil.Process]]
        ] = {}  # name -> until when, and what

    def start(self, name: str) -> None:
        command = worker_command(name, [self._settings.queue_of()], 2)
        environment = self._settings.child_environment() | {
            "PYTHONPATH": str(Path(__file__).parent)
        }
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def restart_dead(self) -> None:
        for name in self.names:
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                self.start(name)

    def tree(self, name: str) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.processes[name].pid)
            return [main, *main.children(recursive=True)]
        return []

    def halt(self, name: str, for_s: float) -> None:
        """Halt a worker and all that it started, for a while."""
        self.wake(name)
        tree = self.tree(name)
        self._halted[name] = time.monotonic() + for_s, tree
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def wake(self, *names: str) -> None:
        """Let go on whose time is up, and these workers in any case; also what is left of one that
        died meanwhile."""
        for name, (until, processes) in list(self._halted.items()):
            if name in names or until < time.monotonic():
                del self._halted[name]
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()

    def end(self) -> None:
        self.wake(*self.names)
        for process in self.processes.values():
            process.kill()
            process.wait()


class Harm:
    """Does one thing after another, chosen by the seed, until told to stop. `done` counts what was
    done."""

    def __init__(
        self,
        rng: Random,
        crew: Crew,
        client: redis.Redis,
        settings: Settings,
        disk: Disk | None = None,
    ) -> None:
        self._rng, self._crew, self._client, self._settings = rng, crew, client, settings
        self._disk, self._server, self.strangers = (
            disk,
            ServerHarm(rng, client),
            Strangers(rng, client, settings),
        )
        self._lists = queue_keys(settings.queue_of())
        self.done: Counter[str] = Counter()
        self._deeds = [
            self.kill_worker,
            self.kill_child,
            self.kill_child,
            self.halt_worker,
            self.drain_worker,
            self.cut_connections,
            self.double_message,
            self.double_message,
            self.drop_message,
            self.drop_message,
            self.shuffle_messages,
            self.drop_queue,
            self.push_nonsense,
            self.push_foreign,
            self.keep_server_busy,
            self.pause_server,
        ]
        if disk is not None:
            self._deeds += [self.fill_store, self.make_store_read_only]

    def go_on(self, stopped: threading.Event, pause_s: float) -> None:
        """Harm until `stopped`, then leave everything running."""
        while not stopped.wait(self._rng.uniform(0.2, 1.8) * pause_s):
            deed = self._rng.choice(self._deeds)
            with suppress(redis.ConnectionError, psutil.NoSuchProcess, ProcessLookupError):
                deed()
                self.done[deed.__name__] += 1
            self._heal()
        if self._disk is not None:
            self._disk.undo(at_once=True)
        self._crew.wake(*self._crew.names)
        self._crew.restart_dead()

    def _heal(self) -> None:
        """Undo what has lasted for long enough."""
        if self._disk is not None:
            self._disk.undo()
        self._crew.wake()
        self._crew.restart_dead()

    def push_nonsense(self) -> None:
        self.strangers.push_nonsense(self._heal)

    def push_foreign(self) -> None:
        self.strangers.push_foreign(self._heal)

    def keep_server_busy(self) -> None:
        self._server.busy()

    def pause_server(self) -> None:
        self._server.pause()

    def fill_store(self) -> None:
        if self._disk is not None:
            self._disk.fill()

    def make_store_read_only(self) -> None:
        if self._disk is not None:
            self._disk.make_read_only()

    def kill_worker(self) -> None:
        self._crew.processes[self._rng.choice(self._crew.names)].kill()

    def kill_child(self) -> None:
        """One that runs steps, and not what a step started: the death of that is the step's own
        affair."""
        main = psutil.Process(self._crew.processes[self._rng.choice(self._crew.names)].pid)
        children = [
            process for process in main.children() if "guardian" not in " ".join(process.cmdline())
        ]
        if children:
            self._rng.choice(children).kill()

    def halt_worker(self) -> None:
        """SIGSTOP for up to twice a lease."""
        self._crew.halt(
            self._rng.choice(self._crew.names), self._rng.uniform(0.1, 2) * self._settings.lease_s
        )

    def drain_worker(self) -> None:
        process = self._crew.processes[self._rng.choice(self._crew.names)]
        process.send_signal(signal.SIGTERM)
        if self._rng.random() < 0.5:
            process.send_signal(signal.SIGTERM)

    def cut_connections(self) -> None:
        self._client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def double_message(self) -> None:
        key, messages = self._messages()
        if messages:
            self._client.rpush(key, self._rng.choice(messages))

    def drop_message(self) -> None:
        key, messages = self._messages()
        if messages:
            self._client.lrem(key, 1, self._rng.choice(messages))

    def shuffle_messages(self) -> None:
        key, messages = self._messages()
        if len(messages) > 1:
            self._rng.shuffle(messages)
            with self._client.pipeline() as pipe:
                for message in messages:
                    pipe.lrem(key, 1, message)
                pipe.rpush(key, *messages)
                pipe.execute()

    def drop_queue(self) -> None:
        self._client.delete(*self._lists)

    def _messages(self) -> tuple[str, list[str]]:
        """Return a list of the queue and our own messages in it: nobody asked us to harm those of
        others."""
        key = self._rng.choice(
            [key for key in self._lists if self._client.llen(key)] or self._lists
        )
        return key, [entry for entry in entries(self._client, key, 0, -1) if attempt_in(entry)]
