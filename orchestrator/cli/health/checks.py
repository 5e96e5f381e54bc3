"""All checks, in the order in which `doctor` shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from orchestrator.cli.health.alerts import check_alert_targets
from orchestrator.cli.health.finding import Finding
from orchestrator.cli.health.machine import check_config, check_pool_settings, check_versions
from orchestrator.cli.health.neighbours import check_set_aside, check_shared_queues
from orchestrator.cli.health.own import check_own_coordinator, check_own_flower, check_own_worker
from orchestrator.cli.health.presence import (
    check_cards,
    check_coordinators,
    check_hosts,
    check_workers,
)
from orchestrator.cli.health.server import check_persistence, check_server
from orchestrator.cli.health.sizes import check_disk, check_memory, check_old_runs, check_run_sizes
from orchestrator.cli.health.store import check_artifact_folder, check_store
from orchestrator.cli.health.work import check_active_runs, check_queues
from orchestrator.errors import ServerUnreachable
from orchestrator.installation import Installation, open_installation
from orchestrator.settings.model import Settings

MachineCheck = Callable[[Settings], Iterator[Finding]]
ServerCheck = Callable[[Installation], Iterator[Finding]]

MACHINE_CHECKS: tuple[MachineCheck, ...] = (
    check_versions,
    check_config,
    check_pool_settings,
    check_artifact_folder,
    check_disk,
    check_alert_targets,
)
SERVER_CHECKS: tuple[ServerCheck, ...] = (
    check_server,
    check_memory,
    check_persistence,
    check_store,
    check_workers,
    check_cards,
    check_hosts,
    check_queues,
    check_shared_queues,
    check_set_aside,
    check_coordinators,
    check_active_runs,
    check_run_sizes,
    check_old_runs,
)
ROLES: dict[str, tuple[tuple[MachineCheck, ...], tuple[ServerCheck, ...]]] = {
    "worker": ((check_artifact_folder,), (check_server, check_store, check_own_worker)),
    "coordinator": ((), (check_server, check_own_coordinator)),
    "flower": ((check_own_flower,), ()),
}
"""What a container needs of its own, by its role."""


def findings_of(
    settings: Settings, of_machine: Iterable[MachineCheck], of_server: Iterable[ServerCheck]
) -> Iterator[Finding]:
    """Yield what these checks find. A server that cannot be used is a fault, and ends the checks of
    it."""
    for machine_check in of_machine:
        yield from machine_check(settings)
    server_checks = tuple(of_server)
    if not server_checks:
        return
    if settings.redis_url is None:
        yield Finding(
            "ok",
            "server",
            f"embedded, data in {settings.data_dir} (ORCHESTRATOR_REDIS_URL is not set)",
        )
    try:
        with open_installation() as installation:
            for server_check in server_checks:
                yield from server_check(installation)
    except ServerUnreachable as error:
        yield Finding("fault", "server", str(error))
