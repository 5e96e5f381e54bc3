"""What a step changes in its process does not reach the steps that come after it there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.settings.model import Settings
from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import OwnWorker, Runs

SPOILING = """
    import os, sys

    def seen():
        {look}
        return {{"pid": os.getpid(), "seen": str(value)}}

    @step
    def before():
        return seen()

    @step
    def spoils(before):
        {spoil}
        return seen()

    @step
    def after(spoils):
        return seen()

    @pipeline
    def spoiling():
        after(spoils(before()))
"""

HELD = {
    "a variable set": ("os.environ['SECRET'] = 'x'", "value = sorted(os.environ.items())"),
    "a variable changed": ("os.environ['PATH'] = 'x'", "value = sorted(os.environ.items())"),
    "a variable removed": ("del os.environ['PATH']", "value = sorted(os.environ.items())"),
    "the environment emptied": ("os.environ.clear()", "value = sorted(os.environ.items())"),
    "the environment replaced": ("os.environ = {'A': 'b'}", "value = sorted(os.environ.items())"),
    "a variable, as commands see it": (
        "os.environ['SECRET'] = 'x'",
        (
            "import subprocess; value = subprocess.run(['env'], capture_output=True,"
            " text=True).stdout.count('SECRET')"
        ),
    ),
    "working folder": ("os.chdir('/')", "value = os.getcwd()"),
    "a working folder that is removed": (
        "import tempfile; folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)",
        "value = os.readlink('/proc/self/cwd')",
    ),
    "umask": ("os.umask(0o007)", "value = os.umask(0); os.umask(value)"),
    "a handler": (
        "import signal; signal.signal(signal.SIGHUP, lambda *_: None)",
        "import signal; value = signal.getsignal(signal.SIGHUP)",
    ),
    "an ignored signal": (
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "import signal; value = signal.getsignal(signal.SIGCHLD)",
    ),
    "all of our own signals": (
        (
            "import signal; [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM,"
            " signal.SIGUSR1, signal.SIGUSR2)]"
        ),
        (
            "import signal; value = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1,"
            " signal.SIGUSR2)]"
        ),
    ),
    "mask": (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])",
        "import signal; value = signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    ),
    "alarm": (
        "import signal; signal.alarm(600)",
        "import signal; value = signal.getitimer(signal.ITIMER_REAL)",
    ),
    "profiling timer": (
        "import signal; signal.setitimer(signal.ITIMER_PROF, 600)",
        "import signal; value = signal.getitimer(signal.ITIMER_PROF)",
    ),
    "logging switched off": (
        "import logging; logging.disable(logging.CRITICAL)",
        "import logging; value = logging.root.manager.disable",
    ),
    "a level's name": (
        (
            "import logging; logging.addLevelName(logging.INFO, 'note'); del"
            " logging._nameToLevel['INFO']"
        ),
        "import logging; value = logging.getLevelName(logging.INFO), logging.getLevelName('INFO')",
    ),
    "root level": (
        "import logging; logging.root.setLevel(logging.DEBUG)",
        "import logging; value = logging.root.level",
    ),
    "root handlers": (
        "import logging; logging.basicConfig(force=True, level='DEBUG')",
        "import logging; value = logging.root.handlers, logging.root.level",
    ),
    "loggers disabled by a configuration": (
        "import logging.config; logging.config.dictConfig({'version': 1})",
        (
            "import logging; value = logging.getLogger('celery').disabled,"
            " logging.getLogger('asyncio').disabled"
        ),
    ),
    "a handler at a logger of others": (
        "import logging; logging.getLogger('celery').addHandler(logging.NullHandler())",
        "import logging; value = logging.getLogger('celery').handlers",
    ),
    "warnings filters": (
        "import warnings; warnings.simplefilter('error')",
        "import warnings; value = warnings.filters",
    ),
    "sys.path": ("sys.path.insert(0, '/nowhere')", "value = sys.path"),
    "sys.path replaced": ("sys.path = ['/nowhere']", "value = sys.path"),
    "sys.meta_path": ("sys.meta_path.clear()", "value = sys.meta_path"),
    "sys.argv": ("sys.argv = ['x']", "value = sys.argv"),
    "standard streams": (
        "import io; sys.stdin = sys.stdout = sys.stderr = io.StringIO()",
        "value = [type(each).__name__ for each in (sys.stdin, sys.stdout, sys.stderr)]",
    ),
    "excepthook": ("sys.excepthook = print", "value = sys.excepthook"),
    "trace function": ("sys.settrace(lambda *_: None)", "value = sys.gettrace()"),
    "profile function": ("sys.setprofile(lambda *_: None)", "value = sys.getprofile()"),
    "recursion limit": ("sys.setrecursionlimit(5000)", "value = sys.getrecursionlimit()"),
    "no garbage collection": ("import gc; gc.disable()", "import gc; value = gc.isenabled()"),
    "decimal precision": (
        "import decimal; decimal.getcontext().prec = 3",
        "import decimal; value = decimal.getcontext()",
    ),
    "decimal context": (
        "import decimal; decimal.setcontext(decimal.Context(prec=3, traps=[]))",
        "import decimal; value = decimal.getcontext()",
    ),
    "decimal contexts that others copy": (
        (
            "import decimal; decimal.DefaultContext.prec = 3;"
            " decimal.DefaultContext.traps[decimal.Inexact] = True;"
            " decimal.setcontext(decimal.ExtendedContext); decimal.getcontext().prec = 5;"
            " decimal.BasicContext.divide(1, 3); decimal.BasicContext.rounding = decimal.ROUND_UP"
        ),
        "import decimal; value = decimal.Context(), decimal.ExtendedContext, decimal.BasicContext",
    ),
    "locale": (
        (
            "import locale; locale.setlocale(locale.LC_ALL, 'C' if locale.setlocale(locale.LC_ALL)"
            " != 'C' else 'C.UTF-8')"
        ),
        "import locale; value = locale.setlocale(locale.LC_ALL)",
    ),
    "time zone": (
        "import time; os.environ['TZ'] = 'Asia/Kathmandu'; time.tzset()",
        (
            "import time; value = time.tzname, time.timezone, os.environ.get('TZ'),"
            " time.localtime(0).tm_hour"
        ),
    ),
    "socket timeout": (
        "import socket; socket.setdefaulttimeout(1)",
        "import socket; value = socket.getdefaulttimeout()",
    ),
    "fault handler": (
        "import faulthandler; faulthandler.enable(open(os.devnull, 'w'))",
        "import faulthandler; value = faulthandler.is_enabled()",
    ),
    "a context variable": (
        (
            "import contextvars; sys.modules['a_variable'] = v = contextvars.ContextVar('v',"
            " default=0); v.set(1)"
        ),
        "value = sys.modules['a_variable'].get() if 'a_variable' in sys.modules else 0",
    ),
    "event loop policy": (
        "import asyncio; asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())",
        "import asyncio.events; value = asyncio.events._event_loop_policy",
    ),
    "the mark of an event loop": (
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "import asyncio.events; value = asyncio.events._event_loop_policy",
    ),
    "an event loop that is said to run": (
        "import asyncio.events; asyncio.events._set_running_loop(asyncio.new_event_loop())",
        "import asyncio.events; value = asyncio.events._get_running_loop()",
    ),
    "where signals are written to": (
        "import asyncio, signal; asyncio.new_event_loop().add_signal_handler(signal.SIGHUP, print)",
        "import signal; value = signal.set_wakeup_fd(-1); signal.set_wakeup_fd(value)",
    ),
    "hooks of asynchronous generators": (
        "sys.set_asyncgen_hooks(print, print)",
        "value = sys.get_asyncgen_hooks()",
    ),
    "size of the stacks of threads": (
        "import threading; threading.stack_size(65536)",
        "import threading; value = threading.stack_size(); threading.stack_size(value)",
    ),
    "folder of compiled files": ("sys.pycache_prefix = '/nowhere'", "value = sys.pycache_prefix"),
    "flags of dlopen": ("sys.setdlopenflags(258)", "value = sys.getdlopenflags()"),
    "start method": (
        "import multiprocessing; multiprocessing.set_start_method('spawn', force=True)",
        "import multiprocessing; value = multiprocessing.get_start_method(allow_none=True)",
    ),
    "folder for temporary files": (
        "import tempfile; tempfile.tempdir = '/nowhere'",
        "import tempfile; value = tempfile.tempdir",
    ),
    "standard input closed": (
        "os.close(0)",
        "value = os.path.exists('/dev/fd/0') and os.fstat(0).st_rdev",
    ),
}

REPLACED = {
    "a resource limit": (
        (
            "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
            "resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))"
        ),
        "import resource; value = resource.getrlimit(resource.RLIMIT_NOFILE)",
    ),
    "niceness": ("os.nice(3)", "value = os.nice(0)"),
    "CPU affinity": (
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
        "value = sorted(os.sched_getaffinity(0))",
    ),
    "session": ("os.setsid()", "value = os.getsid(0) == os.getpid()"),
    "a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=[600]).start()",
        "import threading; value = [t.name for t in threading.enumerate() if not t.daemon]",
    ),
    "threads of an executor": (
        (
            "import concurrent.futures as c; pool = c.ThreadPoolExecutor(2); pool.submit(int);"
            " sys.modules['kept'] = pool"
        ),
        "import threading; value = [t.name for t in threading.enumerate() if not t.daemon]",
    ),
}


@pytest.fixture(scope="module")
def one_child(
    settings: Settings, shared_redis_url: str, runs_by: Callable[[Settings], Runs]
) -> Iterator[Runs]:
    from orchestrator.local.worker import local_worker

    with local_worker(settings, shared_redis_url, 1, ["cpu"], ready_within_s=30) as started:
        yield runs_by(started.settings)
        started.kill()


@pytest.fixture
def spoil(one_child: Runs, pipeline_from: PipelineFrom) -> Callable[[str, str], list[Any]]:
    """Return what three steps see: before, in, and after one that spoils its process."""

    def run(spoil: str, look: str) -> list[Any]:
        record = one_child.run(
            pipeline_from(textwrap.dedent(SPOILING).format(spoil=spoil, look=look))
        )
        assert record.state == "succeeded", record.steps
        return [one_child.value(record, name) for name in ("before", "spoils", "after")]

    return run


@pytest.mark.parametrize("change", HELD)
def test_what_a_step_changes_is_put_back_in_the_same_process(
    spoil: Callable[[str, str], list[Any]], change: str
) -> None:
    before, spoils, after = spoil(*HELD[change])

    assert after == before
    assert spoils["pid"] == before["pid"]


@pytest.mark.parametrize("change", REPLACED)
def test_a_process_that_cannot_be_put_back_is_replaced(
    spoil: Callable[[str, str], list[Any]], change: str
) -> None:
    before, spoils, after = spoil(*REPLACED[change])

    assert spoils["seen"] != before["seen"] or change == "a resource limit"
    assert after["seen"] == before["seen"]
    assert after["pid"] != before["pid"] == spoils["pid"]


def test_users_that_a_step_took_on_are_not_those_of_the_next_one(
    spoil: Callable[[str, str], list[Any]],
) -> None:
    import os

    if os.geteuid():
        pytest.skip("only root may become another user")
    before, spoils, after = spoil(
        "os.setgroups([]); os.setresuid(1, 1, 1)", "value = os.getresuid()"
    )

    assert spoils["seen"] == "(1, 1, 1)"
    assert after["seen"] == before["seen"]


IMPORTED = """
    import os, sys, logging, warnings
    os.environ["OF_{name}"] = "set when imported"
    sys.path.append("/of/{name}")
    warnings.filterwarnings("ignore", message="of {name}")

    @step
    def seen(before=None):
        return [
            os.getpid(), os.environ.get("OF_ONE"), os.environ.get("OF_TWO"),
            [entry for entry in sys.path if entry.startswith("/of/")],
            [str(entry[1]) for entry in warnings.filters if "of " in str(entry[1])],
        ]

    @pipeline
    def imported():
        seen.options(name="last")(seen.options(name="second")(seen.options(name="first")()))
"""


def test_what_modules_change_when_they_are_imported_holds_for_all_steps_of_their_folder_alone(
    one_child: Runs,
    pipeline_from: PipelineFrom,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    from orchestrator.definition.loading import load

    seen = {}
    for name in ("ONE", "TWO", "ONE"):
        folder = tmp_path_factory.mktemp(name)
        monkeypatch.setattr(sys, "path", [*sys.path])
        path = folder / f"imported_{name}_{len(seen)}.py"
        path.write_text(
            "from orchestrator import pipeline, step\n"
            + textwrap.dedent(IMPORTED.format(name=name))
        )
        record = one_child.run(load(str(path)).build())
        monkeypatch.delenv(f"OF_{name}")  # this process has imported it as well
        first, second, last = (
            one_child.value(record, each) for each in ("first", "second", "last")
        )
        assert first == second == last
        seen[name] = first

    assert seen["ONE"][0] == seen["TWO"][0]
    assert seen["ONE"][1:4] == ["set when imported", None, ["/of/ONE"]]
    assert seen["TWO"][1:4] == [None, "set when imported", ["/of/TWO"]]
    assert "ONE" not in str(seen["TWO"][4])


def test_a_step_finds_half_of_the_descriptors_free_whatever_steps_before_it_left_open(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))  # the worker inherits it
    try:
        pipeline = pipeline_from("""
            import os, sys

            @step
            def leaves(number, before):
                kept = [os.open(os.devnull, 0) for _ in range(300)]
                more = [os.open(os.devnull, 0) for _ in range(150)]
                for each in more:
                    os.close(each)
                return os.getpid()

            @pipeline
            def leaving():
                before = None
                for number in range(6):
                    before = leaves.options(name=f"step-{number}")(number, before)
        """)
        with own_worker() as runs:
            record = runs.run(pipeline)
            pids = [runs.value(record, f"step-{number}") for number in range(6)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert record.state == "succeeded"
    assert len(set(pids)) == 3, pids  # it is replaced after every second one, and not sooner


def test_a_process_that_is_replaced_takes_no_other_step_with_it(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    pipeline = pipeline_from("""
        import os, threading, time

        @step
        def leaves(number):
            threading.Thread(target=time.sleep, args=[600]).start()
            return os.getpid()

        @pipeline
        def many():
            for number in range(24):
                leaves.options(name=f"step-{number}")(number)
    """)
    with own_worker(slots=2) as runs:
        record = runs.run(pipeline)

    assert record.state == "succeeded"
    assert {len(step.attempts) for step in record.steps.values()} == {1}
    assert len({runs.value(record, name) for name in record.steps}) == len(record.steps)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_what_belongs_to_a_step_alone_is_held_in_other_pools_too(
    start_worker: Any, pipeline_from: PipelineFrom, pool: str
) -> None:
    _, runs = start_worker(pool, "-P", pool, "-c", "1")
    spoil = (
        "import decimal, celery; decimal.getcontext().prec = 3; celery.Celery('left').set_current()"
    )
    look = "import decimal, celery; value = decimal.getcontext().prec, celery.current_app.main"
    if pool == "solo":
        spoil += "; os.environ['SECRET'] = 'x'; os.chdir('/')"
        look += ", os.environ.get('SECRET'), os.getcwd()"
    record = runs.run(pipeline_from(textwrap.dedent(SPOILING).format(spoil=spoil, look=look)))

    assert record.state == "succeeded"
    before, spoils, after = (runs.value(record, name) for name in ("before", "spoils", "after"))
    assert spoils != before == after
