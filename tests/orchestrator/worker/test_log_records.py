"""Each line that a step logs is in its log once, whatever its loggers and handlers are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.definition.pipeline import Pipeline
from tests.support.fixtures import PipelineFrom
from tests.support.worker_runs import OwnWorker, Runs

WAYS = {
    "a logger": "logging.getLogger('my.model').warning('word')",
    "the root": "logging.warning('word')",
    "a task logger": "get_task_logger('tasks').warning('word')",
    "a task logger, info": "get_task_logger('tasks').info('word')",
    "a child of a task logger": (
        """
        get_task_logger("tasks")
        logging.getLogger("tasks.deep").warning("word")
    """
    ),
    "no propagation": (
        """
        log = logging.getLogger("alone")
        log.propagate = False
        log.warning("word")
    """
    ),
    "no propagation, info": (
        """
        log = logging.getLogger("alone.info")
        log.propagate, log.level = False, logging.INFO
        log.info("word")
    """
    ),
    "no propagation, a null handler": (
        """
        log = logging.getLogger("nullified")
        log.propagate = False
        log.addHandler(logging.NullHandler())
        log.warning("word")
    """
    ),
    "no propagation, into a file": (
        """
        log = logging.getLogger("filed")
        log.propagate = False
        log.addHandler(logging.FileHandler(os.devnull))
        log.warning("word")
    """
    ),
    "its own handler": (
        """
        log = logging.getLogger("owner")
        log.addHandler(logging.StreamHandler())
        log.warning("word")
    """
    ),
    "its own handler, no propagation": (
        """
        log = logging.getLogger("owner.alone")
        log.propagate = False
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.warning("word")
    """
    ),
    "its own handler that takes more": (
        """
        log = logging.getLogger("owner.strict")
        log.addHandler(strict := logging.StreamHandler())
        strict.setLevel("CRITICAL")
        log.warning("word")
    """
    ),
    "its own handler with a filter": (
        """
        log = logging.getLogger("owner.filtered")
        log.addHandler(filtered := logging.StreamHandler())
        filtered.addFilter(lambda record: False)
        log.warning("word")
    """
    ),
    "a handler on the first stderr": (
        """
        log = logging.getLogger("early")
        log.addHandler(logging.StreamHandler(sys.__stderr__))
        log.warning("word")
    """
    ),
    "a handler of the step's stream": (
        """
        log = logging.getLogger("inner")
        log.addHandler(logging.StreamHandler(io.StringIO()))
        log.warning("word")
    """
    ),
    "a handler that prints": (
        """
        class Printing(logging.Handler):
            def emit(self, record):
                print(self.format(record))

        log = logging.getLogger("printing")
        log.addHandler(Printing())
        log.warning("word")
    """
    ),
    "a handler that prints nothing": (
        """
        class Silent(logging.Handler):
            def emit(self, record):
                print("something else")

        log = logging.getLogger("silent")
        log.addHandler(Silent())
        log.warning("word")
    """
    ),
    "a buffer before the stream": (
        """
        import logging.handlers
        log = logging.getLogger("buffered")
        buffer = logging.handlers.MemoryHandler(10, target=logging.StreamHandler())
        log.addHandler(buffer)
        log.warning("word")
        buffer.flush()
    """
    ),
    "dictConfig as Django does it": (
        """
        import logging.config
        console = {"class": "logging.StreamHandler", "formatter": "plain"}
        logging.config.dictConfig({
            "version": 1,
            "formatters": {"plain": {"format": "%(levelname)s %(message)s"}},
            "handlers": {"console": console},
            "root": {"handlers": ["console"], "level": "INFO"},
            "loggers": {"site": {"handlers": ["console"], "level": "DEBUG", "propagate": False}},
        })
        logging.getLogger("site").debug("word")
    """
    ),
    "dictConfig without a handler": (
        """
        import logging.config
        logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": []}})
        logging.getLogger("site").info("word")
    """
    ),
    "basicConfig by force": (
        """
        logging.basicConfig(level="DEBUG", force=True)
        logging.getLogger("forced").debug("word")
    """
    ),
    "a warning": "warnings.warn('word', stacklevel=1)",
    "a warning shown by Python": (
        """
        logging.captureWarnings(False)
        warnings.warn("word", stacklevel=1)
    """
    ),
    "the log of multiprocessing": (
        """
        import multiprocessing
        multiprocessing.log_to_stderr().error("word")
    """
    ),
    "a rich handler": (
        """
        from rich.logging import RichHandler
        log = logging.getLogger("rich")
        log.addHandler(RichHandler())
        log.warning("word")
    """
    ),
    "another thread": (
        """
        thread = threading.Thread(target=get_task_logger("threads").warning, args=["word"])
        thread.start()
        thread.join()
    """
    ),
    "faulthandler": (
        """
        def word():
            faulthandler.dump_traceback(sys.__stderr__)
        word()
    """
    ),
    "a C library": "ctypes.CDLL(None).dprintf(2, b'word\\n')",
    "bytes": "sys.stdout.buffer.write(b'word\\n')",
}
SETTING_UP = {
    way: body for way, body in WAYS.items() if "Config" in way or "captureWarnings" in body
}
HARMLESS = {way: body for way, body in WAYS.items() if way not in SETTING_UP}
ONLY_IN_PROCESSES = {"another thread", "faulthandler", "a C library"}


def source_of(ways: dict[str, str]) -> str:
    made = [
        "import ctypes, faulthandler, io, logging, os, sys, threading, warnings",
        "from celery.utils.log import get_task_logger",
    ]
    for number, body in enumerate(ways.values()):
        word = f"word{number:02}"
        body = textwrap.indent(textwrap.dedent(body).strip().replace("word", word), "    ")
        made += ["", "@step", f"def way{number:02}():", body]
    called = [f"    way{number:02}()" for number in range(len(ways))]
    return "\n".join([*made, "", "@pipeline", "def ways():", *called])


def assert_each_once(runs: Runs, pipeline: Pipeline, ways: Mapping[str, str]) -> None:
    record = runs.run(pipeline)
    logs = {way: runs.log(record, f"way{number:02}") for number, way in enumerate(ways)}

    found = {
        way: sum(f"word{number:02}" in line for line in logs[way] if "warnings.warn" not in line)
        for number, way in enumerate(ways)
    }
    assert record.state == "succeeded"
    assert found == dict.fromkeys(ways, 1), logs


def test_each_line_is_in_the_log_once_whatever_way_it_takes(
    own_worker: OwnWorker, pipeline_from: PipelineFrom
) -> None:
    with own_worker(slots=4) as runs:
        assert_each_once(runs, pipeline_from(source_of(HARMLESS)), HARMLESS)


@pytest.mark.parametrize("way", SETTING_UP)
def test_a_step_that_sets_up_logging_anew_takes_no_line_from_the_next(
    own_worker: OwnWorker, pipeline_from: PipelineFrom, way: Any
) -> None:
    ways = {way: WAYS[way], "a logger": WAYS["a logger"], "a task logger": WAYS["a task logger"]}
    with own_worker() as runs:
        assert_each_once(runs, pipeline_from(source_of(ways)), ways)


def test_each_line_is_in_the_log_once_in_a_pool_of_threads(
    start_worker: Any, pipeline_from: PipelineFrom
) -> None:
    ways = {way: body for way, body in HARMLESS.items() if way not in ONLY_IN_PROCESSES}
    _, runs = start_worker(
        "threaded", "--pool", "threads", "--concurrency", "2", "--loglevel", "INFO"
    )

    assert_each_once(runs, pipeline_from(source_of(ways)), ways)


def test_what_a_worker_logs_of_itself_is_in_no_log(runs: Runs, pipeline_from: PipelineFrom) -> None:
    record = runs.run(
        pipeline_from("""
            import logging

            @step
            def quiet():
                logging.getLogger("celery.worker.strategy").warning("of Celery")
                logging.getLogger("orchestrator.worker.child.capture").warning("of ours")

            @pipeline
            def quietly():
                quiet()
        """)
    )

    assert runs.log(record, "quiet") == []
