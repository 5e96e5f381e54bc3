"""Every setting reaches the processes that we start with the value that it has here, whichever way
it goes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from orchestrator import secrecy
from orchestrator.processes.services import WORKER, service_command
from orchestrator.settings.model import Settings, secret_names
from orchestrator.settings.pools import PoolSettings
from orchestrator.settings.sources import load_settings

# What an environment can hold: any text without NUL.
TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
) | st.sampled_from(
    [
        " ",
        " padded ",
        "null",
        "true",
        "[]",
        '{"a": 1}',
        '"quoted"',
        "a\nb\n",
        "$HOME",
        "0",
        "ORCHESTRATOR_X=1",
        "\\n",
        "é漢",
    ]
)
SOME_TEXT = TEXTS.filter(bool)
NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True)
SPANS = st.floats(0.5, 1e9) | st.integers(1, 10**9)
COUNTS = st.integers(1, 10**12)
FOLDERS = st.lists(SOME_TEXT.map(lambda text: text.replace("/", "~")), min_size=1, max_size=3).map(
    lambda parts: Path("/", *parts)
)
POOLS = st.builds(
    PoolSettings,
    concurrency=st.none() | COUNTS,
    pool_type=st.sampled_from(["prefork", "threads", "solo"]),
    threads=st.none() | COUNTS,
    celery_app=st.none() | st.sampled_from(["proj.celery:app", "a:b.c"]),
    server_in_steps=st.booleans(),
    description=TEXTS,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "redis_url": st.none() | st.sampled_from([
        "redis://h", "rediss://u:p%2520%40%3F@h:1/2?ssl_ca_certs=%2Fx%20y",
        "unix:///run/r%25s.sock?db=1", "valkey://:%24X@[::1]/3",
    ]),
    "data_dir": FOLDERS,
    "artifact_dir": st.none() | FOLDERS,
    "artifact_mode": st.sampled_from(["0600", "640", "0777"]),
    "artifact_group": st.none() | SOME_TEXT,
    "key_prefix": NAMES,
    "broker_key_prefix": st.from_regex(r"[A-Za-z0-9._:{}-]{0,12}", fullmatch=True),
    "celery_events": st.booleans(),
    "inline_output_bytes": st.integers(0, 10**12),
    "labels": st.dictionaries(NAMES, TEXTS, max_size=3),
    "log_lines_per_attempt": st.integers(0, 10**12),
    "shell_output_mb": COUNTS,
    "visibility_timeout_s": st.integers(86_400, 10**12),
    "code_drift": st.sampled_from(["refuse", "warn", "allow"]),
    "poll_interval_s": st.floats(1e-9, 5),
    "timeout_grace_s": st.just(0) | SPANS,
    "lease_s": SPANS,
    "message_lost_after_s": SPANS,
    "drain_grace_s": st.just(0) | SPANS,
    "alerts": st.lists(TEXTS, max_size=3).map(tuple),
    "flower_port": st.integers(1, 65535),
    "flower_address": SOME_TEXT,
    "flower_user": SOME_TEXT,
    "flower_password": st.none() | TEXTS.map(SecretStr),
    "flower_max_tasks": COUNTS,
    "log_level": st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
    "log_format": st.sampled_from(["text", "json"]),
    "parent_pid": st.none() | COUNTS,
}  # fmt: skip


@st.composite
def odd_settings(draw: st.DrawFn) -> Settings:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    pools = {name: draw(POOLS) for name in names}
    chosen = {name: draw(values) for name, values in VALUES.items()}
    return Settings(pools=pools, default_pool=draw(st.sampled_from(names)), **chosen)


def as_told(settings: Settings) -> dict[str, Any]:
    """Return all values with their types, secrets too."""
    told = settings.model_dump()
    told["flower_password"] = (
        settings.flower_password and settings.flower_password.get_secret_value()
    )
    return told


def test_the_values_of_this_test_are_those_of_all_settings() -> None:
    assert VALUES.keys() | {"pools", "default_pool"} == Settings.model_fields.keys()


@given(chosen=odd_settings())
def test_what_is_read_from_the_environment_is_what_was_written_to_it(chosen: Settings) -> None:
    environment = {
        os.fsdecode(os.fsencode(name)): os.fsdecode(os.fsencode(value))
        for name, value in chosen.child_environment(
            {"ORCHESTRATOR_POOLS__CPU__QUEUE": "another"}
        ).items()
    }

    assert as_told(load_settings(Path("/"), environment)) == as_told(chosen)


READS = """
import os, pickle, sys
from orchestrator.secrecy import receive
from orchestrator.settings.sources import current_settings, withdraw_secrets

arguments = receive(sys.argv[1:])
withdraw_secrets()
assert not [name for name in os.environ if "REDIS_URL" in name or "PASSWORD" in name or "ALERTS" in name], os.environ
sys.stdout.buffer.write(pickle.dumps((current_settings().model_dump(), current_settings().flower_password.get_secret_value())))
"""


def test_secrets_and_all_else_reach_a_process_of_ours_unchanged(tmp_path: Path) -> None:
    chosen = Settings(
        redis_url="rediss://u:p%2520%40%24@h:1/2",
        data_dir=tmp_path / " a\n~ é",
        key_prefix="null",
        pools={"CPU": PoolSettings(description='"\n$X'), "cpu": PoolSettings(pool_type="solo")},
        default_pool="CPU",
        alerts=("$A", 'json://u:"p@h', "[]"),
        flower_password=SecretStr(' "$X"\n'),
        artifact_group="true",
        poll_interval_s=1e-9,
    )
    with secrecy.handed_down(chosen.secrets(secret_names())) as descriptor:
        command = secrecy.with_secrets(service_command(WORKER), descriptor)
        told = subprocess.run(
            [sys.executable, "-P", "-c", READS, *command[4:]],
            env=chosen.public_environment(), pass_fds=[descriptor], capture_output=True, check=True,
        )  # fmt: skip

    values, password = pickle.loads(told.stdout)
    assert values | {"flower_password": password} == as_told(chosen)
