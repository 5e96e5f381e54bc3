"""What can be set: the settings of the orchestrator and of its pools, with their meaning and their
limits."""

from __future__ import annotations

import grp
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orchestrator.errors import SettingsInvalid, did_you_mean
from orchestrator.permissions import Permissions
from orchestrator.redis_url import normalise_redis_url
from orchestrator.settings.pools import PoolSettings

PREFIX = "ORCHESTRATOR_"
CONFIG_VARIABLE = "ORCHESTRATOR_CONFIG"

FOLDERS = ("data_dir", "artifact_dir")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Settings(BaseSettings):
    """The settings, frozen. `Settings(...)` reads neither environment nor file; `load_settings`
    does."""

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
        description=(
            "Redis server (redis://, rediss://, valkey://, unix:///path); an embedded one if unset."
        ),
    )
    data_dir: Path = Field(
        Path(".orchestrator"), description="Folder for everything kept on this machine."
    )
    artifact_dir: Path | None = Field(
        None, description="Folder for artifacts; data_dir/artifacts if unset."
    )
    artifact_mode: str = Field(
        "0600",
        pattern=r"^0?[0-7]{3}$",
        description=(
            "Mode of files in the artifact folder (folders get x for r), as 0640 for workers of"
            " several users."
        ),
    )
    artifact_group: str | None = Field(
        None,
        min_length=1,
        description=(
            "Group of what workers put into the artifact folder; that of the worker if unset."
        ),
    )
    key_prefix: str = Field(
        "orc",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="First part of every key of the record in Redis, and of the pools' queues.",
    )
    broker_key_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:{}-]*$",
        description=(
            "Put before every key and channel of Celery in Redis (kombu's global_keyprefix), for"
            " access lists."
        ),
    )
    default_pool: str = Field("cpu", description="Pool of the steps that name none.")
    pools: dict[str, PoolSettings] = Field(
        default_factory=lambda: {"cpu": PoolSettings()},
        description="The pools by name; each has queue, concurrency, pool_type and description.",
    )
    celery_events: bool = Field(
        True, description="Whether workers send Celery events, which Flower needs."
    )
    inline_output_bytes: int = Field(
        4096, ge=0, description="Largest JSON output kept in the ledger itself, in bytes."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="labels that each run gets which is submitted here"
    )
    log_lines_per_attempt: int = Field(
        1000, ge=0, description="Last log lines kept for each attempt."
    )
    shell_output_mb: int = Field(
        64,
        ge=1,
        description="Largest output of a shell command, in MB; one that writes more fails.",
    )
    visibility_timeout_s: int = Field(
        172_800,
        ge=86_400,
        description="Seconds before Celery redelivers an unacked message; a day at least.",
    )
    code_drift: Literal["refuse", "warn", "allow"] = Field(
        "warn",
        description=(
            "What a worker does with a step whose files differ from those submitted: refuse (the"
            " step goes back), warn (it runs, and its record says so), allow."
        ),
    )
    poll_interval_s: float = Field(
        0.5, gt=0, le=5, description="Seconds between two looks of the coordinator at the ledger."
    )
    timeout_grace_s: float = Field(
        5.0, ge=0, description="Seconds between asking a step to stop and killing it."
    )
    lease_s: float = Field(
        6.0,
        ge=0.5,
        description=(
            "Seconds after which a running step whose worker is silent is given to another one."
        ),
    )
    message_lost_after_s: float = Field(
        5.0,
        ge=0.5,
        description="Seconds that a queued step's message must be missing before it is sent again.",
    )
    drain_grace_s: float = Field(
        300.0,
        ge=0,
        description=(
            "Seconds that a worker that is to end waits for its running steps; then it hands them"
            " over."
        ),
    )
    alerts: tuple[str, ...] = Field(
        (),
        repr=False,
        description=(
            "Apprise URLs that get an alert when a run fails; $NAME in one is taken from the"
            " environment."
        ),
    )
    flower_port: int = Field(5555, ge=1, le=65535, description="TCP port of Flower.")
    flower_address: str = Field(
        "127.0.0.1", min_length=1, description="Address that Flower listens on."
    )
    flower_user: str = Field(
        "admin", min_length=1, description="User name for Flower's basic authentication."
    )
    flower_password: SecretStr | None = Field(
        None, repr=False, description="Password for Flower; a random one if unset."
    )
    flower_max_tasks: int = Field(10_000, ge=1, description="Tasks that Flower keeps in memory.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description=(
            "How services log: text for people, or json, one object a line, for collectors."
        ),
    )
    parent_pid: int | None = Field(
        None,
        ge=1,
        description=(
            "Process whose end also ends a local worker; set by the orchestrator, not by people."
        ),
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

    @field_validator(*FOLDERS)
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else Path(os.path.abspath(folder.expanduser()))

    @field_validator("flower_password")
    @classmethod
    def _empty_is_unset(cls, password: SecretStr | None) -> SecretStr | None:
        """As in a variable: an empty one would protect nothing, and could not be handed on to
        Flower's process."""
        return password or None

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @field_validator("pools")
    @classmethod
    def _pools_with_queues(
        cls, pools: dict[str, PoolSettings], info: ValidationInfo
    ) -> dict[str, PoolSettings]:
        prefix = info.data.get("key_prefix", "orc")
        if not pools:
            raise ValueError("there must be one pool at least")
        readers: dict[str, str] = {}
        for name, pool in pools.items():
            queue = pool.queue or _default_queue(prefix, name)
            for word in (name, queue):
                if not _NAME.fullmatch(word):
                    raise ValueError(
                        f"{word!r} of pool {name!r} may hold only letters, digits, '.', '-' and '_'"
                    )
            if queue in readers:
                raise ValueError(
                    f"pools {readers[queue]!r} and {name!r} have the same queue {queue!r}"
                )
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
        """Mode and group of what goes into the artifact folder. Raises SettingsInvalid without such
        a group here."""
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

    def queue_of(self, pool: str | None = None) -> str:
        """Return the queue of a pool (the default pool if None); KeyError if there is no such
        pool."""
        name = pool or self.default_pool
        return self.pools[name].queue or _default_queue(self.key_prefix, name)

    def former_queues(self) -> dict[str, str]:
        """Return the queues by the names that they had when a pool's name was its queue's.

        Messages that lie in those, and runs that were started with them, go on in the queues of
        today.
        """
        today = {self.queue_of(name) for name in self.pools}
        defaults = {name: _default_queue(self.key_prefix, name) for name in self.pools}
        return {
            name: queue for name, queue in defaults.items() if queue in today and name not in today
        }

    def queue_today(self, queue: str) -> str:
        """Return the queue that takes the messages for `queue`, which may be a former name."""
        return self.former_queues().get(queue, queue)

    def list_of(self, queue: str) -> str:
        """Return the Redis list in which the messages for `queue` lie, without the mark of a
        priority."""
        return self.broker_key_prefix + self.queue_today(queue)

    def as_environment(self) -> dict[str, str]:
        """Return the variables from which a child reads exactly these settings, secrets
        included."""
        # The empty CONFIG_VARIABLE keeps a config file of the child's folder out.
        environment = {CONFIG_VARIABLE: ""}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            if name == "pools":
                value = json.dumps(
                    {
                        key: pool.model_dump(exclude_defaults=True)
                        for key, pool in self.pools.items()
                    }
                )
            elif isinstance(value, dict | tuple):
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
        return {
            variable: all_of_them[variable]
            for name in names
            if (variable := PREFIX + name.upper()) in all_of_them
        }

    def public_environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return `child_environment` without secrets, which go another way (`secrecy`)."""
        secret = secret_variables()
        return {
            name: value for name, value in self.child_environment(env).items() if name not in secret
        }

    def child_environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return `env` (`os.environ` if None) with `as_environment` in place of all its
        `ORCHESTRATOR_*`."""
        inherited = os.environ if env is None else env
        return {
            k: v for k, v in inherited.items() if not k.upper().startswith(PREFIX)
        } | self.as_environment()


def secret_names() -> frozenset[str]:
    """Return the names of the settings that nobody else may see. A setting is secret if its field
    has `repr=False`."""
    return frozenset(name for name, field in Settings.model_fields.items() if not field.repr)


def secret_variables() -> frozenset[str]:
    """Return the variables of the secret settings."""
    return frozenset(PREFIX + name.upper() for name in secret_names())


def _default_queue(key_prefix: str, pool: str) -> str:
    # Not the pool's name alone: "cpu" is what other applications on the same server call theirs.
    return f"{key_prefix}.{pool}"
