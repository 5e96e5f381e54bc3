"""`worker`, `serve` and `flower`: the long-running processes."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence

import click
from pydantic import SecretStr

from orchestrator import secrecy
from orchestrator.errors import PoolUnknown, did_you_mean
from orchestrator.installation import Installation, open_installation
from orchestrator.ledger.presence import present_workers, refuse_older
from orchestrator.log_format import set_up_logging
from orchestrator.messages.worker_command import worker_command
from orchestrator.processes.dispositions import heeded
from orchestrator.processes.exit_status import KnownChild
from orchestrator.processes.services import FLOWER, service_command
from orchestrator.redis_url import masked_url
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import current_settings

# few: each adds a series to /metrics for every step and worker
FLOWER_RUNTIME_BUCKETS_S = (
    1,
    10,
    60,
    600,
    3600,
)


logger = logging.getLogger(__name__)


@click.command()
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="NAME",
    help="Pool to serve, repeatable (default: the setting default_pool).",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps to run at a time (default: the pool's setting).",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Name of the worker on this host (default: the pool's name, numbered).",
)
def worker(pools: tuple[str, ...], concurrency: int | None, name: str | None) -> None:
    """Run a Celery worker for a pool, in the foreground.

    SIGTERM or Ctrl-C lets its running steps end; the second time it hands them over to other
    workers.
    """
    settings = current_settings()
    served = list(dict.fromkeys(pools)) or [settings.default_pool]
    for pool in served:
        if pool not in settings.pools:
            known = ", ".join(settings.pools)
            raise PoolUnknown(
                f"there is no pool {pool!r}, only {known}.{did_you_mean(pool, settings.pools)}"
            )
    kinds = {settings.pools[pool].pool_type for pool in served}
    if len(kinds) > 1:
        raise PoolUnknown(
            f"pools {', '.join(served)} have different pool types; start a worker for each"
        )
    if kinds == {"threads"} and len({settings.pools[pool].server_in_steps for pool in served}) > 1:
        raise PoolUnknown(
            f"pools {', '.join(served)} have different server_in_steps, and threads share their"
            " environment; start a worker for each"
        )
    slots = concurrency or max(settings.pools[pool].slots for pool in served)
    with open_installation() as installation:
        queues = [settings.queue_of(pool) for pool in served]
        free = name or _free_name(installation, served[0])
        command = worker_command(
            free, queues, slots, pool_type=kinds.pop(), log_level=settings.log_level
        )
        _run(installation, settings, command, ("redis_url",))


@click.command()
def serve() -> None:
    """Run a coordinator, in the foreground.

    It sends due retries, repairs what was lost, keeps deadlines and sends alerts. Run one or more:
    there is no leader.
    """
    from orchestrator.coordinator.coordinator import Coordinator

    set_up_logging(current_settings().log_format, current_settings().log_level)
    # A signal that sets an event for which this thread is just beginning to wait would wait for
    # itself, for ever.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for name in heeded(signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda signum, frame: signals.put(signum))
    with open_installation() as installation:
        refuse_older(installation.ledger.client, installation.ledger.prefix)
        coordinator = Coordinator(installation.ledger, installation.app, installation.settings)
        stopped = threading.Event()
        _say(f"coordinator {coordinator.name} serves {masked_url(installation.redis_url)}")
        serving = threading.Thread(target=coordinator.serve, args=(stopped,), name="coordinator")
        serving.start()
        signals.get()
        stopped.set()
        serving.join()


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="TCP port (default: the setting flower_port)."
)
@click.option("--address", help="Address to listen on (default: the setting flower_address).")
def flower(port: int | None, address: str | None) -> None:
    """Run Flower, to watch queues and steps in a browser.

    On localhost, with a password and bounded memory unless the settings say otherwise.
    """
    settings = current_settings()
    password = (
        settings.flower_password.get_secret_value()
        if settings.flower_password
        else secrets.token_urlsafe(12)
    )
    host, number = address or settings.flower_address, port or settings.flower_port
    with open_installation() as installation:
        options = [f"--address={host}", f"--port={number}"]
        options += [f"--max-tasks={settings.flower_max_tasks}", "--purge-offline-workers=600"]
        options += [f"--task_runtime_metric_buckets={','.join(map(str, FLOWER_RUNTIME_BUCKETS_S))}"]
        shown = password if not settings.flower_password else "as set"
        _say(f"Flower on http://{host}:{number} (user {settings.flower_user}, password {shown})")
        settings = settings.model_copy(update={"flower_password": SecretStr(password)})
        _run(
            installation,
            settings,
            service_command(FLOWER, *options),
            ("redis_url", "flower_password"),
        )


def _say(text: str) -> None:
    """Say to people or, as a line of the log, to a collector what a service does."""
    if current_settings().log_format == "json":
        set_up_logging("json", current_settings().log_level)
        logger.info("%s", text)
    else:
        click.echo(text, err=True)


def _free_name(installation: Installation, pool: str) -> str:
    """Return the pool's name, or the first numbered one that no worker of this host bears now."""
    taken = {
        card.worker
        for card in present_workers(installation.ledger.client, installation.ledger.prefix)
    }
    names = (pool if number == 1 else f"{pool}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if f"{name}@{socket.gethostname()}" not in taken)


def _run(
    installation: Installation, settings: Settings, command: Sequence[str], needed: Iterable[str]
) -> None:
    """Become the command, or run it and hand signals on while we hold the embedded server for it.

    It gets the secrets that it needs, and the other settings in its environment.
    """
    settings = settings.model_copy(update={"redis_url": installation.redis_url})
    environment = settings.public_environment()
    with secrecy.handed_down(settings.secrets(needed)) as descriptor:
        command = secrecy.with_secrets(command, descriptor)
        if not installation.is_embedded:
            os.set_inheritable(descriptor, True)
            os.execvpe(command[0], command, environment)
        process = KnownChild(
            command, env=environment, start_new_session=True, pass_fds=[descriptor]
        )
    with _handing_on(process):
        code = process.wait()
    sys.exit(code)


@contextlib.contextmanager
def _handing_on(process: KnownChild) -> Iterator[KnownChild]:
    for name in heeded(signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda signum, frame: process.send_signal(signum))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
