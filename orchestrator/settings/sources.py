"""Where the settings come from.

Strongest first: overrides (CLI options) > environment `ORCHESTRATOR_*` > config file > defaults.
The config file is `ORCHESTRATOR_CONFIG`, else `config/orchestrator.toml` under the working
directory; set but empty it means no file. `ORCHESTRATOR_POOLS` (JSON) replaces all pools; a nested
name such as `ORCHESTRATOR_POOLS__GPU__CONCURRENCY=1` amends or adds one. Any other variable that is
empty counts as unset.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from orchestrator import secrecy
from orchestrator.errors import SettingsInvalid
from orchestrator.settings.faults import origin_of, setting_fault, unknown_variables
from orchestrator.settings.model import CONFIG_VARIABLE, FOLDERS, PREFIX, Settings, secret_variables
from orchestrator.wording import counted

URL_VARIABLE = "ORCHESTRATOR_REDIS_URL"
POOLS_VARIABLE = "ORCHESTRATOR_POOLS"
ALERTS_VARIABLE = "ORCHESTRATOR_ALERTS"
STEP_VARIABLE = "ORCHESTRATOR_IN_STEP"
"""Stands in the environment of steps that may not use the server."""

DEFAULT_CONFIG_FILE = Path("config") / "orchestrator.toml"


def withdraw_secrets() -> None:
    """Take all secrets out of this process's environment; `settings` knows them nevertheless."""
    secrecy.withdraw(secret_variables())


@cache
def current_settings() -> Settings:
    """Return the settings of this process, read once. `cache_clear()` forgets them."""
    return load_settings(env={**os.environ, **secrecy.held()})


def load_settings(
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings from all sources; relative folders count from `cwd`. Raises
    SettingsInvalid."""
    folder = Path.cwd() if cwd is None else Path(os.path.abspath(cwd))
    variables = _variables(os.environ if env is None else env)
    variables.pop(STEP_VARIABLE, None)
    file = _config_file(folder, variables.pop(CONFIG_VARIABLE, None))
    variables = {name: value for name, value in variables.items() if value}
    given = {name: value for name, value in (overrides or {}).items() if value is not None}

    faults = unknown_variables(variables, (CONFIG_VARIABLE, STEP_VARIABLE))
    from_file = _read_file(file) if file else {}
    from_env = _read_variables(variables, faults)
    data = from_file | from_env
    data["pools"] = _read_pools(variables, faults, otherwise=from_file.get("pools", {"cpu": {}}))
    if "pools" in from_env:
        data["pools"] = _merge_pools(data["pools"], from_env["pools"])
    data |= given
    data.setdefault("data_dir", ".orchestrator")
    for name in FOLDERS:
        if isinstance(data.get(name), str | Path):
            data[name] = folder / Path(data[name]).expanduser()

    try:
        loaded = Settings(**data)
    except ValidationError as invalid:
        for error in invalid.errors():
            path = tuple(str(part) for part in error["loc"])
            faults.append(setting_fault(error, path, origin_of(path, given, variables, file)))
    if faults:
        raise SettingsInvalid(
            "\n  ".join([f"settings have {counted(len(faults), 'fault')}", *faults])
        )
    return loaded


def config_file(cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Path | None:
    """Return the config file that `load_settings` reads, None if there is none. Raises
    SettingsInvalid."""
    folder = Path.cwd() if cwd is None else Path(os.path.abspath(cwd))
    return _config_file(folder, _variables(os.environ if env is None else env).get(CONFIG_VARIABLE))


def _variables(env: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in env.items() if name.upper().startswith(PREFIX)}


def _config_file(cwd: Path, named: str | None) -> Path | None:
    if named == "":
        return None
    path = cwd / Path(named or DEFAULT_CONFIG_FILE).expanduser()
    if named and not path.is_file():
        raise SettingsInvalid(f"{CONFIG_VARIABLE} names {path}, which is not a file")
    return path if path.is_file() else None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsInvalid(f"{path} cannot be read: {error.strerror}") from None


def _read_variables(variables: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """Return the variables as nested values by field, all but `ORCHESTRATOR_POOLS`."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {
        name.lower(): text for name, text in variables.items() if name != POOLS_VARIABLE
    }
    if alerts := variables.get(ALERTS_VARIABLE):
        source.env_vars[ALERTS_VARIABLE.lower()] = json.dumps(_read_alerts(alerts, faults))
    try:
        return source()
    except SettingsError as error:
        faults.append(str(error))
        return {}


def _read_alerts(text: str, faults: list[str]) -> list[str]:
    """Return the targets of `ORCHESTRATOR_ALERTS`: a JSON list, or one URL as it is."""
    if text[0] == "$" or re.match(r"[A-Za-z0-9+.-]+://", text):
        return [text]
    try:
        targets = json.loads(text)
    except ValueError:
        targets = None
    if not isinstance(targets, list):
        faults.append(
            f'{ALERTS_VARIABLE} must be one URL or a JSON list of URLs, as in ["json://host/path"]'
        )
        return []
    return targets


def _read_pools(variables: Mapping[str, str], faults: list[str], *, otherwise: Any) -> Any:
    """Return the pools of `ORCHESTRATOR_POOLS`; `otherwise` if it is unset or (a fault) no JSON
    object."""
    text = variables.get(POOLS_VARIABLE)
    if text is None:
        return otherwise
    try:
        pools = json.loads(text)
    except ValueError:
        pools = None
    if not isinstance(pools, dict):
        faults.append(
            f'{POOLS_VARIABLE} must be a JSON object, as in {{"gpu": {{"concurrency": 1}}}}'
        )
        return otherwise
    return pools


def _merge_pools(pools: Any, amended: Any) -> Any:
    """Lay the nested variables over `pools`, name by name whatever the case: variables come in
    upper case."""
    if not isinstance(pools, dict) or not isinstance(amended, dict):
        return amended
    merged = dict(pools)
    names = {name.lower(): name for name in pools}
    for lower, values in amended.items():
        name = names.get(lower, lower)
        old = merged.get(name)
        merged[name] = (
            old | values if isinstance(old, dict) and isinstance(values, dict) else values
        )
    return merged
