"""Settings: which source wins, and how each fault is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.errors import SettingsInvalid
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings
from orchestrator.settings.sources import load_settings

EXAMPLE = Path(__file__).parents[3] / "config" / "orchestrator.toml"


def write_config(folder: Path, text: str) -> Path:
    path = folder / "config" / "orchestrator.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def faults_of(folder: Path, env: dict[str, str]) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(folder, env)
    return str(caught.value)


def test_without_sources_the_defaults_hold(tmp_path: Path) -> None:
    loaded = load_settings(tmp_path, {})

    assert loaded == Settings(data_dir=tmp_path / ".orchestrator")
    assert loaded.redis_url is None
    assert loaded.artifact_root == tmp_path / ".orchestrator" / "artifacts"
    assert loaded.queue_of() == "orc.cpu"


def test_environment_beats_file_beats_default(tmp_path: Path) -> None:
    write_config(tmp_path, "flower_port = 1001\npoll_interval_s = 2\n")

    loaded = load_settings(tmp_path, {"ORCHESTRATOR_FLOWER_PORT": "1002"})

    assert (loaded.flower_port, loaded.poll_interval_s, loaded.flower_max_tasks) == (
        1002,
        2.0,
        10_000,
    )


def test_overrides_beat_the_environment(tmp_path: Path) -> None:
    env = {"ORCHESTRATOR_DATA_DIR": "from-env", "ORCHESTRATOR_FLOWER_PORT": "1002"}

    loaded = load_settings(
        tmp_path, env, overrides={"data_dir": "from-option", "flower_port": None}
    )

    assert loaded.data_dir == tmp_path / "from-option"
    assert loaded.flower_port == 1002


def test_the_config_file_can_be_named_or_switched_off(tmp_path: Path) -> None:
    write_config(tmp_path, "flower_port = 1001\n")
    (tmp_path / "other.toml").write_text("flower_port = 1003\n")

    assert load_settings(tmp_path, {"ORCHESTRATOR_CONFIG": "other.toml"}).flower_port == 1003
    assert load_settings(tmp_path, {"ORCHESTRATOR_CONFIG": ""}).flower_port == 5555
    assert "no-such.toml, which is not a file" in faults_of(
        tmp_path, {"ORCHESTRATOR_CONFIG": "no-such.toml"}
    )


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load_settings(tmp_path, {"ORCHESTRATOR_REDIS_URL": ""}).redis_url is None


def test_a_nested_variable_amends_a_pool_whatever_its_case(tmp_path: Path) -> None:
    write_config(tmp_path, '[pools.cpu]\n[pools.GPU]\nqueue = "cuda"\n')

    loaded = load_settings(tmp_path, {"ORCHESTRATOR_POOLS__GPU__CONCURRENCY": "1"})

    assert loaded.pools["GPU"] == PoolSettings(queue="cuda", concurrency=1)


def test_a_nested_variable_adds_a_pool_beside_the_default_one(tmp_path: Path) -> None:
    loaded = load_settings(tmp_path, {"ORCHESTRATOR_POOLS__GPU__CONCURRENCY": "1"})

    assert list(loaded.pools) == ["cpu", "gpu"]


def test_pools_as_json_replace_those_of_the_file(tmp_path: Path) -> None:
    write_config(tmp_path, "[pools.cpu]\n[pools.io]\n")

    env = {"ORCHESTRATOR_POOLS": '{"cpu": {}, "Gpu": {}}', "ORCHESTRATOR_POOLS__GPU__QUEUE": "cuda"}

    assert {name: pool.queue for name, pool in load_settings(tmp_path, env).pools.items()} == {
        "cpu": "orc.cpu",
        "Gpu": "cuda",
    }


def test_every_unknown_name_is_refused_at_once_with_a_guess(tmp_path: Path) -> None:
    path = write_config(tmp_path, "flowr_port = 1\n[pools.cpu]\nconcurency = 2\n")

    message = faults_of(
        tmp_path,
        {
            "ORCHESTRATOR_REDIS_ULR": "x",
            "ORCHESTRATOR_POOLS__CPU__QEUE": "x",
            "OTHER_VARIABLE": "x",
        },
    )

    assert message.startswith("settings have 4 faults\n")
    assert (
        "ORCHESTRATOR_REDIS_ULR is not a variable of the orchestrator. Did you mean"
        " 'ORCHESTRATOR_REDIS_URL'?" in message
    )
    assert "ORCHESTRATOR_POOLS__CPU__QEUE is not a known setting. Did you mean 'queue'?" in message
    assert f"'flowr_port' in {path} is not a known setting. Did you mean 'flower_port'?" in message
    assert (
        f"'pools.cpu.concurency' in {path} is not a known setting. Did you mean 'concurrency'?"
        in message
    )


def test_a_wrong_value_is_named_by_where_it_came_from(tmp_path: Path) -> None:
    path = write_config(tmp_path, "flower_port = 'web'\n")

    message = faults_of(
        tmp_path,
        {"ORCHESTRATOR_POOLS__CPU__CONCURRENCY": "many", "ORCHESTRATOR_POLL_INTERVAL_S": "0"},
    )

    assert "ORCHESTRATOR_POOLS__CPU__CONCURRENCY is 'many': " in message
    assert "ORCHESTRATOR_POLL_INTERVAL_S is '0': input should be greater than 0" in message
    assert f"'flower_port' in {path} is 'web': " in message


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_pools_that_are_no_json_object_are_refused(tmp_path: Path, text: str) -> None:
    assert "ORCHESTRATOR_POOLS must be a JSON object" in faults_of(
        tmp_path, {"ORCHESTRATOR_POOLS": text}
    )


def test_a_file_that_is_no_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    path = write_config(tmp_path, "redis_url = \n")

    assert re.search(
        rf"{re.escape(str(path))} is not valid TOML: .*line 1", faults_of(tmp_path, {})
    )


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (
            '[pools.cpu]\n[pools.big]\nqueue = "orc.cpu"',
            "pools 'cpu' and 'big' have the same queue 'orc.cpu'",
        ),
        (
            'default_pool = "gpuu"\n[pools.gpu]',
            "default_pool 'gpuu' is none of the pools (gpu). Did you mean 'gpu'?",
        ),
        ('[pools."a b"]', "'a b' of pool 'a b' may hold only letters, digits, '.', '-' and '_'"),
        ('[pools.cpu]\nqueue = "a,b"', "'a,b' of pool 'cpu' may hold only"),
        ("[pools]", "there must be one pool at least"),
    ],
)
def test_pools_that_do_not_fit_together_are_refused(
    tmp_path: Path, config: str, fault: str
) -> None:
    write_config(tmp_path, config)

    assert fault in faults_of(tmp_path, {})


def test_a_fault_never_shows_a_secret(tmp_path: Path) -> None:
    env = {
        "ORCHESTRATOR_REDIS_URL": "http://me:secret@host",
        "ORCHESTRATOR_FLOWER_PASSWORD": "hidden",
    }

    assert "secret" not in faults_of(tmp_path, env)
    loaded = load_settings(tmp_path, env | {"ORCHESTRATOR_REDIS_URL": "redis://me:secret@host"})
    assert "secret" not in repr(loaded)
    assert "hidden" not in repr(loaded)


def test_alerts_are_a_list_and_stand_in_no_fault_and_no_repr(tmp_path: Path) -> None:
    write_config(tmp_path, 'alerts = ["slack://$TOKEN"]\n')
    assert load_settings(tmp_path, {}).alerts == ("slack://$TOKEN",)

    loaded = load_settings(
        tmp_path, {"ORCHESTRATOR_ALERTS": '["json://me:secret@h", "mailto://b"]'}
    )
    assert loaded.alerts == ("json://me:secret@h", "mailto://b")
    assert "secret" not in repr(loaded)

    assert load_settings(tmp_path, {"ORCHESTRATOR_ALERTS": "json://me@h"}).alerts == (
        "json://me@h",
    )

    for wrong in (
        "me:secret@h",
        '["json://me:secret@h"',
        '"json://me:secret@h"',
        '["json://me:secret@h", 7]',
        '[["secret"]]',
    ):
        fault = faults_of(tmp_path, {"ORCHESTRATOR_ALERTS": wrong})
        assert "alerts" in fault.lower()
        assert "secret" not in fault


def test_a_child_reads_exactly_the_same_settings(tmp_path: Path) -> None:
    write_config(tmp_path, "flower_port = 1\n[pools.cpu]\n[pools.io]\n")
    given = load_settings(
        tmp_path,
        {
            "ORCHESTRATOR_CONFIG": str(EXAMPLE),
            "ORCHESTRATOR_REDIS_URL": "redis+socket:///run/redis.sock?virtual_host=3",
            "ORCHESTRATOR_FLOWER_PASSWORD": 'p "\u00e4',
            "ORCHESTRATOR_ALERTS": '["slack://$TOKEN/#ml", "json://me:p%20w@h"]',
            "ORCHESTRATOR_TIMEOUT_GRACE_S": "0.1",
            "ORCHESTRATOR_CELERY_EVENTS": "no",
            "ORCHESTRATOR_PARENT_PID": "7",
        },
    )

    inherited = {
        "ORCHESTRATOR_POOLS__OTHER__QUEUE": "x",
        "ORCHESTRATOR_ARTIFACT_DIR": "/elsewhere",
        "HOME": "/h",
    }
    environment = given.child_environment(inherited)

    # In the folder of another config file, which must not have a say.
    assert load_settings(tmp_path, environment) == given
    assert environment["HOME"] == "/h"


def test_the_example_holds_the_defaults_and_names_every_setting(tmp_path: Path) -> None:
    loaded = load_settings(tmp_path, {"ORCHESTRATOR_CONFIG": str(EXAMPLE)})

    assert loaded.model_copy(update={"pools": {}}) == load_settings(tmp_path, {}).model_copy(
        update={"pools": {}}
    )
    assert {name: (pool.pool_type, pool.concurrency) for name, pool in loaded.pools.items()} == {
        "cpu": ("prefork", None),
        "gpu": ("prefork", 1),
        "io": ("threads", 16),
    }
    named = set(re.findall(r"^(?:# )?(\w+) = ", EXAMPLE.read_text(), re.MULTILINE))
    assert named >= (set(Settings.model_fields) - {"pools"}) | set(PoolSettings.model_fields)


def test_every_setting_says_what_it_is() -> None:
    fields = {**Settings.model_fields, **PoolSettings.model_fields}

    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("name", ["lease_s", "poll_interval_s", "timeout_grace_s", "drain_grace_s"])
def test_no_time_is_endless(tmp_path: Path, name: str) -> None:
    for wrong in ("inf", "nan"):
        assert f"ORCHESTRATOR_{name.upper()} is '{wrong}'" in faults_of(
            tmp_path, {f"ORCHESTRATOR_{name.upper()}": wrong}
        )
