"""A working folder whose files have all the names that we, our dependencies and Python use: nothing
takes them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support.webhook import serving

OURS = {
    "orchestrator",
    "workers",
    "config",
    "tests",
    "examples",
    "celeryconfig",
    "flowerconfig",
    "sitecustomize",
}
HELLO = """
import os
from orchestrator import PipelineBuilder, pipeline, step
from neighbour import double

@step(retries=1, retry_delay=0.01)
def unsteady(marker):
    if not os.path.exists(marker):
        open(marker, "w").close()
        raise OSError("the first attempt fails")
    return set(range(3000))  # goes to the store

@step
def total(values) -> int:
    return double(sum(values))

@step
def fork() -> list:
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(double, [1, 2])

@pipeline
def hello(marker: str, forks: bool = False):
    total(unsteady(marker))
    if forks:
        fork()
"""
FAILS = """
from orchestrator import pipeline, step

@step
def broken():
    return {}["nothing"]

@pipeline(alerts=["WEBHOOK"])
def fails():
    broken()
"""
YAML = """
steps:
  double: {uses: "neighbour:double", args: [4]}
  shown: {run: "echo ${{ steps.double.output }}"}
"""
DJANGO_SETTINGS = (
    "SECRET_KEY = 'x'\nINSTALLED_APPS = ['shop']\nUSE_TZ = True\nTIME_ZONE = 'Asia/Tokyo'\n"
)
DJANGO_STEP = """
from orchestrator import pipeline, step

@step
def apps() -> list:
    import os
    from celery import Celery
    for name in ("CELERY_LOADER", "CELERY_CONFIG_MODULE"):
        os.environ.pop(name)
    Celery("theirs", set_as_current=False)  # its fix-up for Django puts this folder first on sys.path
    import colorsys, wave
    from django.apps import apps
    from shop.models import Item
    return [apps.ready, Item._meta.label]

@pipeline
def uses_django():
    apps()
"""


@pytest.fixture(scope="module")
def names(needed_distributions: set[str]) -> set[str]:
    """The top-level modules of Python, of ours, and of everything that an installation of ours
    brings."""
    modules = {
        module
        for module, distributions in packages_distributions().items()
        if needed_distributions & set(map(canonicalize_name, distributions))
        and module.isidentifier()
    }
    assert {"celery", "redis", "packaging", "yaml"} <= modules
    return {*sys.stdlib_module_names, *modules, *OURS} - {"__main__"}


class HostileFolder:
    """A folder of such files; each notes its name and raises when it is imported."""

    def __init__(self, folder: Path, kind: str, names: set[str]) -> None:
        self.folder, self.marks = folder, folder.parent / "marks"
        folder.mkdir()
        self.marks.mkdir()
        for name in names:
            text = (
                f"import os\nos.close(os.open({str(self.marks / name)!r}, os.O_CREAT))\n"
                f"raise RuntimeError('{name} of the user was imported')\n"
            )
            if kind == "packages":
                (folder / name).mkdir()
                (folder / name / "__init__.py").write_text(text)
            else:
                (folder / f"{name}.py").write_text(text)
        (folder / "neighbour.py").write_text("def double(number):\n    return 2 * number\n")
        (folder / "hello.py").write_text(HELLO)
        (folder / "steps.yaml").write_text(YAML)

    def taken(self) -> list[str]:
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture(params=["files", "packages"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, names: set[str]) -> HostileFolder:
    return HostileFolder(tmp_path / "place", request.param, names)


def test_a_run_takes_nothing_of_the_users_but_what_its_code_imports(hostile, place_in, tmp_path):
    place = place_in(hostile.folder)

    done = place.call(
        "run", "hello.py", "-p", f"marker={tmp_path / 'marker'}", "-p", "forks=true", "--json"
    )
    assert done.code == 0, done.err
    outputs = {name: step["output"] for name, step in done.json["steps"].items()}
    assert (outputs["total"], outputs["fork"]) == (2 * sum(range(3000)), [2, 4])
    assert place.call("run", "steps.yaml").code == 0
    with serving() as webhook:
        (hostile.folder / "fails.py").write_text(FAILS.replace("WEBHOOK", webhook.url("failed")))
        failed = place.call("run", "fails.py")
        assert "KeyError: 'nothing'" in failed.out, failed
        assert place.call("resume", "last").code == 1
        assert len(webhook.messages("failed")) == 2
    for arguments in (
        ["plan", "hello.py", "-p", "marker=x"], ["plan", "neighbour"], ["runs"], ["show", "last"],
        ["why", "last", "broken"], ["events", "last"], ["logs", "last"], ["verify", "last"],
        ["doctor"], ["schema"],
    ):  # fmt: skip
        done = place.call(*arguments)
        assert "was imported" not in done.out + done.err
        assert "Traceback" not in done.err, done
    assert hostile.taken() == []


@contextmanager
def services(place, log_folder: Path, *commands: list[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for words in commands:
            with (log_folder / f"{words[0]}.log").open("wb") as log:
                process = place.start(*words, stdout=log, stderr=log)
            stack.callback(_stop, process, log_folder)
        yield


def _stop(process: subprocess.Popen[str], log_folder: Path) -> None:
    logs = "\n".join(path.read_text(errors="replace") for path in log_folder.glob("*.log"))
    assert process.poll() is None, logs
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (0, -signal.SIGTERM), logs
    assert "Traceback" not in logs, logs


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# What other projects of the user's may have set for Celery and Flower: all of it names modules and
# servers of theirs.
FOREIGN_VARIABLES = {
    "APP": "theirs", "BROKER_URL": "redis://127.0.0.1:9/0", "CONFIG_MODULE": "theirs",
    "LOADER": "theirs:Loader",
    "RESULT_BACKEND": "theirs://", "CELERY_APP": "theirs", "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
    "CELERY_BROKER_READ_URL": "redis://127.0.0.1:9/0", "CELERY_BROKER_WRITE_URL": "redis://127.0.0.1:9/0",
    "CELERY_CONFIG_MODULE": "theirs", "CELERY_LOADER": "theirs:Loader", "CELERY_RESULT_BACKEND": "theirs://",
}  # fmt: skip


# Every type of pool, and files as well as packages; what a name leads to is the same in all pools.
@pytest.mark.parametrize(
    ("hostile", "pool_type"),
    [("packages", "prefork"), ("files", "threads"), ("packages", "solo"), ("files", "prefork")],
    indirect=["hostile"],
)
def test_services_take_no_module_and_no_server_of_the_users(
    hostile: HostileFolder,
    place_in: Callable,
    tmp_path: Path,
    shared_redis_url: str,
    wait_until: Callable[..., None],
    pool_type: str,
) -> None:
    queue = f"names-{hostile.folder.parent.name}"
    pools = {"cpu": {"queue": queue, "pool_type": pool_type, "concurrency": 2}}
    place = place_in(hostile.folder, FOREIGN_VARIABLES | {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url, "ORCHESTRATOR_KEY_PREFIX": queue,
        "ORCHESTRATOR_POOLS": json.dumps(pools), "DJANGO_SETTINGS_MODULE": "site_settings",
    })  # fmt: skip
    (hostile.folder / "site_settings.py").write_text(DJANGO_SETTINGS)
    (hostile.folder / "shop").mkdir()
    (hostile.folder / "shop" / "__init__.py").touch()
    (hostile.folder / "shop" / "models.py").write_text(
        "from django.db import models\n\nclass Item(models.Model):\n    pass\n"
    )
    (hostile.folder / "uses_django.py").write_text(DJANGO_STEP)
    port = free_port()

    with services(place, tmp_path, ["serve"], ["worker"], ["flower", "--port", str(port)]):
        wait_until(lambda: "slots on cpu@" in place.call("doctor").out)
        runs = [place.call("submit", "hello.py", "-p", f"marker={tmp_path / 'marker'}")]
        runs.append(place.call("submit", "uses_django.py"))
        for run in runs:
            assert run.code == 0, run.err
            place.call("events", run.out.strip(), "--follow")
        records = [place.call("show", run.out.strip(), "--json").json for run in runs]
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/") == 401)

    assert [record["state"] for record in records] == ["succeeded", "succeeded"], records
    assert records[1]["steps"]["apps"]["output"] == [True, "shop.Item"]
    assert hostile.taken() == []
