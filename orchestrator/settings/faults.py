"""What is wrong with a setting, in the words of the place where it was set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import names_hint
from orchestrator.settings.model import PREFIX, Settings, secret_names
from orchestrator.settings.pools import PoolSettings


def unknown_variables(variables: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that is neither that of a setting nor one of `others`."""
    known = [*others, *(PREFIX + name.upper() for name in Settings.model_fields)]
    faults = []
    for variable in sorted(variables):
        if variable in known or variable.startswith(PREFIX + "POOLS__"):
            continue
        faults.append(
            f"{variable} is not a variable of the orchestrator.{names_hint(variable, known)}"
        )
    return faults


def origin_of(
    path: tuple[str, ...],
    overrides: Mapping[str, Any],
    variables: Mapping[str, str],
    file: Path | None,
) -> str:
    """Return where the value at `path` came from, in the words of its source."""
    if not path:
        return ""
    if path[0] in overrides:
        return ".".join(path)
    for length in range(len(path), 0, -1):
        variable = PREFIX + "__".join(path[:length]).upper()
        if variable in variables:
            return variable + "".join(f"[{part}]" for part in path[length:])
    return f"{'.'.join(path)!r} in {file}" if file else ".".join(path)


def setting_fault(error: Any, path: tuple[str, ...], origin: str) -> str:
    """Return a sentence about an error of pydantic; a secret setting's value is not shown."""
    if error["type"] == "extra_forbidden":
        known = PoolSettings.model_fields if path[0] == "pools" else Settings.model_fields
        return f"{origin} is not a known setting.{names_hint(path[-1], known)}"
    cause = error.get("ctx", {}).get("error")
    reason = str(cause) if cause is not None else error["msg"][:1].lower() + error["msg"][1:]
    if not path:
        return reason
    if path[0] in secret_names() or path == ("pools",):
        return f"{origin}: {reason}"
    return f"{origin} is {error['input']!r}: {reason}"
