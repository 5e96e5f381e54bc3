"""All settings of the orchestrator and where they come from.

Strongest first: overrides (CLI options) > environment `ORCHESTRATOR_*` > config file > defaults. The config
file is `ORCHESTRATOR_CONFIG`, else `config/orchestrator.toml` under the working directory; set but empty it
means no file. `ORCHESTRATOR_POOLS` (JSON) replaces all pools; a nested name such as
`ORCHESTRATOR_POOLS__GPU__CONCURRENCY=1` amends or adds one. Any other variable that is empty counts as unset.
"""

from __future__ import annotations

import grp
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from orchestrator import secrecy
from orchestrator.cores import available_cores
from orchestrator.definition.faults import SettingsInvalid, did_you_mean, names_hint
from orchestrator.permissions import Permissions
from orchestrator.redis_url import normalise_redis_url

PREFIX = "ORCHESTRATOR_"
CONFIG_VARIABLE = "ORCHESTRATOR_CONFIG"
URL_VARIABLE = "ORCHESTRATOR_REDIS_URL"
POOLS_VARIABLE = "ORCHESTRATOR_POOLS"
ALERTS_VARIABLE = "ORCHESTRATOR_ALERTS"
STEP_VARIABLE = "ORCHESTRATOR_IN_STEP"
"""Stands in the environment of steps that may not use the server."""

DEFAULT_CONFIG_FILE = Path("config") / "orchestrator.toml"

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_FOLDERS = ("data_dir", "artifact_dir")


class PoolSettings(BaseModel):
    """One kind of worker machine and the queue it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str | None = Field(None, description="Queue that the pool's workers read; `<key_prefix>.<pool>` if unset.")
    concurrency: int | None = Field(None, ge=1, description="Steps one worker runs at a time; its CPU cores if unset.")
    pool_type: Literal["prefork", "threads", "solo"] = Field(
        "prefork", description="How Celery runs steps: prefork (processes), threads or solo (one, in line)."
    )
    threads: int | None = Field(
        None, ge=1, description="Most threads of numeric libraries in a step; its share of the cores if unset."
    )
    celery_app: str | None = Field(
        None,
        pattern=r"^[\w.]+:[\w.]+$",
        description="Your Celery app, as 'proj.celery:app', which is the current one in the pool's steps.",
    )
    server_in_steps: bool = Field(
        False, description="Whether steps get ORCHESTRATOR_REDIS_URL and may use the orchestrator's own commands."
    )
    description: str = Field("", description="What the pool is for, for people.")

    @property
    def slots(self) -> int:
        """Steps that one worker of the pool runs at a time on this machine."""
        return self.concurrency or available_cores()


class Settings(BaseSettings):
    """The settings, frozen. `Settings(...)` reads neither environment nor file; `load_settings` does."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    redis_url: str | None = Field(
        None,
        repr=False,
        description="Redis server (redis://, rediss://, valkey://, unix:///path); an embedded one if unset.",
    )
    data_dir: Path = Field(Path(".orchestrator"), description="Folder for everything kept on this machine.")
    artifact_dir: Path | None = Field(None, description="Folder for artifacts; data_dir/artifacts if unset.")
    artifact_mode: str = Field(
        "0600",
        pattern=r"^0?[0-7]{3}$",
        description="Mode of files in the artifact folder (folders get x for r), as 0640 for workers of several users.",
    )
    artifact_group: str | None = Field(
        None,
        min_length=1,
        description="Group of what workers put into the artifact folder; that of the worker if unset.",
    )
    key_prefix: str = Field(
        "orc",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="First part of every key of the record in Redis, and of the pools' queues.",
    )
    broker_key_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:{}-]*$",
        description="Put before every key and channel of Celery in Redis (kombu's global_keyprefix), for access lists.",
    )
    default_pool: str = Field("cpu", description="Pool of the steps that name none.")
    pools: dict[str, PoolSettings] = Field(
        default_factory=lambda: {"cpu": PoolSettings()},
        description="The pools by name; each has queue, concurrency, pool_type and description.",
    )
    celery_events: bool = Field(True, description="Whether workers send Celery events, which Flower needs.")
    inline_output_bytes: int = Field(4096, ge=0, description="Largest JSON output kept in the ledger itself, in bytes.")
    log_lines_per_attempt: int = Field(1000, ge=0, description="Last log lines kept for each attempt.")
    shell_output_mb: int = Field(
        64, ge=1, description="Largest output of a shell command, in MB; one that writes more fails."
    )
    visibility_timeout_s: int = Field(
        172_800, ge=86_400, description="Seconds before Celery redelivers an unacked message; a day at least."
    )
    code_drift: Literal["refuse", "warn", "allow"] = Field(
        "warn",
        description="What a worker does with a step whose files differ from those submitted: refuse (the step goes "
        "back), warn (it runs, and its record says so), allow.",
    )
    poll_interval_s: float = Field(
        0.5, gt=0, le=5, description="Seconds between two looks of the coordinator at the ledger."
    )
    timeout_grace_s: float = Field(5.0, ge=0, description="Seconds between asking a step to stop and killing it.")
    lease_s: float = Field(
        6.0, ge=0.5, description="Seconds after which a running step whose worker is silent is given to another one."
    )
    message_lost_after_s: float = Field(
        5.0, ge=0.5, description="Seconds that a queued step's message must be missing before it is sent again."
    )
    drain_grace_s: float = Field(
        300.0,
        ge=0,
        description="Seconds that a worker told to end waits for its running steps; then it hands them over.",
    )
    alerts: tuple[str, ...] = Field(
        (),
        repr=False,
        description="Apprise URLs that are told when a run fails; $NAME in one is taken from the environment.",
    )
    flower_port: int = Field(5555, ge=1, le=65535, description="TCP port of Flower.")
    flower_address: str = Field("127.0.0.1", min_length=1, description="Address that Flower listens on.")
    flower_user: str = Field("admin", min_length=1, description="User name for Flower's basic authentication.")
    flower_password: SecretStr | None = Field(
        None, repr=False, description="Password for Flower; a random one if unset."
    )
    flower_max_tasks: int = Field(10_000, ge=1, description="Tasks that Flower keeps in memory.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How services log: text for people, or json, one object a line, for collectors."
    )
    parent_pid: int | None = Field(
        None,
        ge=1,
        description="Process whose end also ends a local worker; set by the orchestrator, not by people.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the environment to `load_settings`, which can name every fault in it."""
        return (init_settings,)

    @field_validator("redis_url")
    @classmethod
    def _canonical_url(cls, url: str | None) -> str | None:
        return None if url is None else normalise_redis_url(url)

    @field_validator(*_FOLDERS)
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else Path(os.path.abspath(folder.expanduser()))

    @field_validator("flower_password")
    @classmethod
    def _empty_is_unset(cls, password: SecretStr | None) -> SecretStr | None:
        """As in a variable: an empty one would protect nothing, and could not be handed on to Flower's process."""
        return password or None

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @field_validator("pools")
    @classmethod
    def _pools_with_queues(cls, pools: dict[str, PoolSettings], info: ValidationInfo) -> dict[str, PoolSettings]:
        prefix = info.data.get("key_prefix", "orc")
        if not pools:
            raise ValueError("there must be one pool at least")
        readers: dict[str, str] = {}
        for name, pool in pools.items():
            queue = pool.queue or _default_queue(prefix, name)
            for word in (name, queue):
                if not _NAME.fullmatch(word):
                    raise ValueError(f"{word!r} of pool {name!r} may hold only letters, digits, '.', '-' and '_'")
            if queue in readers:
                raise ValueError(f"pools {readers[queue]!r} and {name!r} have the same queue {queue!r}")
            readers[queue] = name
        return {
            name: pool.model_copy(update={"queue": pool.queue or _default_queue(prefix, name)})
            for name, pool in pools.items()
        }

    @model_validator(mode="after")
    def _default_pool_is_known(self) -> Self:
        if self.default_pool not in self.pools:
            known = ", ".join(self.pools)
            raise ValueError(
                f"default_pool {self.default_pool!r} is none of the pools ({known})."
                + did_you_mean(self.default_pool, self.pools)
            )
        return self

    @property
    def renewal_interval_s(self) -> float:
        """Seconds between two renewals of a lease: a third of it, so that two may fail."""
        return self.lease_s / 3

    @property
    def artifact_root(self) -> Path:
        """Folder that holds the artifacts."""
        return self.artifact_dir or self.data_dir / "artifacts"

    @property
    def artifact_permissions(self) -> Permissions:
        """Mode and group of what goes into the artifact folder. Raises SettingsInvalid without such a group here."""
        group_id = None
        if self.artifact_group is not None:
            try:
                group_id = grp.getgrnam(self.artifact_group).gr_gid
            except KeyError:
                raise SettingsInvalid(
                    f"artifact_group: there is no group {self.artifact_group!r} on this host. "
                    "Make it, or name another one."
                ) from None
        return Permissions(int(self.artifact_mode, 8), group_id)

    def checkpoint_dir(self, run_id: str, step: str) -> Path:
        """Folder of a step's checkpoints, the same for all its attempts in a run."""
        return self.artifact_root / run_id / f"{step}.checkpoints"

    def queue_of(self, pool: str | None = None) -> str:
        """Give the queue of a pool (the default pool if None); KeyError if there is no such pool."""
        name = pool or self.default_pool
        return self.pools[name].queue or _default_queue(self.key_prefix, name)

    def former_queues(self) -> dict[str, str]:
        """Return the queues by the names that they had when a pool's name was its queue's.

        Messages that lie in those, and runs that were started with them, go on in the queues of today.
        """
        today = {self.queue_of(name) for name in self.pools}
        defaults = {name: _default_queue(self.key_prefix, name) for name in self.pools}
        return {name: queue for name, queue in defaults.items() if queue in today and name not in today}

    def queue_today(self, queue: str) -> str:
        """Return the queue that takes the messages for `queue`, which may be a former name."""
        return self.former_queues().get(queue, queue)

    def list_of(self, queue: str) -> str:
        """Return the Redis list in which the messages for `queue` lie, without the mark of a priority."""
        return self.broker_key_prefix + self.queue_today(queue)

    def as_environment(self) -> dict[str, str]:
        """Give the variables from which a child reads exactly these settings, secrets included."""
        # The empty CONFIG_VARIABLE keeps a config file of the child's folder out.
        environment = {CONFIG_VARIABLE: ""}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            if name == "pools":
                value = json.dumps({key: pool.model_dump(exclude_defaults=True) for key, pool in self.pools.items()})
            elif name == "alerts":
                value = json.dumps(value)
            elif isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, bool):
                value = str(value).lower()
            environment[PREFIX + name.upper()] = str(value)
        return environment

    def secrets(self, names: Iterable[str]) -> dict[str, str]:
        """Return the variables of some settings."""
        all_of_them = self.as_environment()
        return {variable: all_of_them[variable] for name in names if (variable := PREFIX + name.upper()) in all_of_them}

    def public_environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return `child_environment` without secrets, which go another way (`secrecy`)."""
        secret = secret_variables()
        return {name: value for name, value in self.child_environment(env).items() if name not in secret}

    def child_environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give `env` (`os.environ` if None) with `as_environment` in place of all its `ORCHESTRATOR_*`."""
        inherited = os.environ if env is None else env
        return {k: v for k, v in inherited.items() if not k.upper().startswith(PREFIX)} | self.as_environment()


def secret_names() -> frozenset[str]:
    """Return the names of the settings that nobody else may see. A setting is secret if its field has `repr=False`."""
    return frozenset(name for name, field in Settings.model_fields.items() if not field.repr)


def secret_variables() -> frozenset[str]:
    """Return the variables of the secret settings."""
    return frozenset(PREFIX + name.upper() for name in secret_names())


def withdraw_secrets() -> None:
    """Take all secrets out of this process's environment; `settings` knows them nevertheless."""
    secrecy.withdraw(secret_variables())


def _default_queue(key_prefix: str, pool: str) -> str:
    # Not the pool's name alone: "cpu" is what other applications on the same server call theirs.
    return f"{key_prefix}.{pool}"


@cache
def settings() -> Settings:
    """Give the settings of this process, read once. `settings.cache_clear()` forgets them."""
    return load_settings(env={**os.environ, **secrecy.held()})


def load_settings(
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings from all sources; relative folders count from `cwd`. Raises SettingsInvalid."""
    folder = Path.cwd() if cwd is None else Path(os.path.abspath(cwd))
    variables = _variables(os.environ if env is None else env)
    variables.pop(STEP_VARIABLE, None)
    file = _config_file(folder, variables.pop(CONFIG_VARIABLE, None))
    variables = {name: value for name, value in variables.items() if value}
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}

    faults = _unknown_variables(variables)
    from_file = _read_file(file) if file else {}
    from_env = _read_variables(variables, faults)
    data = from_file | from_env
    data["pools"] = _read_pools(variables, faults, otherwise=from_file.get("pools", {"cpu": {}}))
    if "pools" in from_env:
        data["pools"] = _merge_pools(data["pools"], from_env["pools"])
    data |= chosen
    data.setdefault("data_dir", ".orchestrator")
    for name in _FOLDERS:
        if isinstance(data.get(name), str | Path):
            data[name] = folder / Path(data[name]).expanduser()

    try:
        loaded = Settings(**data)
    except ValidationError as invalid:
        for error in invalid.errors():
            path = tuple(str(part) for part in error["loc"])
            faults.append(_fault(error, path, _origin(path, chosen, variables, file)))
    if faults:
        count = len(faults)
        raise SettingsInvalid("\n  ".join([f"settings have {count} fault{'s' if count != 1 else ''}", *faults]))
    return loaded


def config_file(cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Path | None:
    """Give the config file that `load_settings` reads, None if there is none. Raises SettingsInvalid."""
    folder = Path.cwd() if cwd is None else Path(os.path.abspath(cwd))
    return _config_file(folder, _variables(os.environ if env is None else env).get(CONFIG_VARIABLE))


def _variables(env: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in env.items() if name.upper().startswith(PREFIX)}


def _config_file(cwd: Path, named: str | None) -> Path | None:
    if named == "":
        return None
    path = cwd / Path(named or DEFAULT_CONFIG_FILE).expanduser()
    if named and not path.is_file():
        raise SettingsInvalid(f"{CONFIG_VARIABLE} names {path}, which is no file")
    return path if path.is_file() else None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsInvalid(f"{path} cannot be read: {error.strerror}") from None


def _unknown_variables(variables: Iterable[str]) -> list[str]:
    known = [CONFIG_VARIABLE, STEP_VARIABLE, *(PREFIX + name.upper() for name in Settings.model_fields)]
    faults = []
    for variable in sorted(variables):
        if variable in known or variable.startswith(PREFIX + "POOLS__"):
            continue
        faults.append(f"{variable} is no variable of the orchestrator.{names_hint(variable, known)}")
    return faults


def _read_variables(variables: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """Give the variables as nested values by field, all but `ORCHESTRATOR_POOLS`."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name, text in variables.items() if name != POOLS_VARIABLE}
    if alerts := variables.get(ALERTS_VARIABLE):
        source.env_vars[ALERTS_VARIABLE.lower()] = json.dumps(_read_alerts(alerts, faults))
    try:
        return source()
    except SettingsError as error:
        faults.append(str(error))
        return {}


def _read_alerts(text: str, faults: list[str]) -> list[str]:
    """Give the targets of `ORCHESTRATOR_ALERTS`: a JSON list, or one URL as it is."""
    if text[0] == "$" or re.match(r"[A-Za-z0-9+.-]+://", text):
        return [text]
    try:
        targets = json.loads(text)
    except ValueError:
        targets = None
    if not isinstance(targets, list):
        faults.append(f'{ALERTS_VARIABLE} must be one URL or a JSON list of URLs, as in ["json://host/path"]')
        return []
    return targets


def _read_pools(variables: Mapping[str, str], faults: list[str], *, otherwise: Any) -> Any:
    """Give the pools of `ORCHESTRATOR_POOLS`; `otherwise` if it is unset or (a fault) no JSON object."""
    text = variables.get(POOLS_VARIABLE)
    if text is None:
        return otherwise
    try:
        pools = json.loads(text)
    except ValueError:
        pools = None
    if not isinstance(pools, dict):
        faults.append(f'{POOLS_VARIABLE} must be a JSON object, as in {{"gpu": {{"concurrency": 1}}}}')
        return otherwise
    return pools


def _merge_pools(pools: Any, amended: Any) -> Any:
    """Lay the nested variables over `pools`, name by name whatever the case: variables come in upper case."""
    if not isinstance(pools, dict) or not isinstance(amended, dict):
        return amended
    merged = dict(pools)
    names = {name.lower(): name for name in pools}
    for lower, values in amended.items():
        name = names.get(lower, lower)
        old = merged.get(name)
        merged[name] = old | values if isinstance(old, dict) and isinstance(values, dict) else values
    return merged


def _origin(
    path: tuple[str, ...], overrides: Mapping[str, Any], variables: Mapping[str, str], file: Path | None
) -> str:
    """Name where the value at `path` came from, in the words of its source."""
    if not path:
        return ""
    if path[0] in overrides:
        return ".".join(path)
    for length in range(len(path), 0, -1):
        variable = PREFIX + "__".join(path[:length]).upper()
        if variable in variables:
            return variable + "".join(f"[{part}]" for part in path[length:])
    return f"{'.'.join(path)!r} in {file}" if file else ".".join(path)


def _fault(error: Any, path: tuple[str, ...], origin: str) -> str:
    if error["type"] == "extra_forbidden":
        known = PoolSettings.model_fields if path[0] == "pools" else Settings.model_fields
        return f"{origin} is no known setting.{names_hint(path[-1], known)}"
    cause = error.get("ctx", {}).get("error")
    reason = str(cause) if cause is not None else error["msg"][:1].lower() + error["msg"][1:]
    if not path:
        return reason
    if path[0] in secret_names() or path == ("pools",):
        return f"{origin}: {reason}"
    return f"{origin} is {error['input']!r}: {reason}"
