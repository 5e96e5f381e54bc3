"""A pytest fixture for tests that run pipelines on real workers.

In a `conftest.py`: `from orchestrator.testing import orchestrator_stack`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.handles.entrance import list_runs, open_run, run, submit
from orchestrator.handles.place import close, settle
from orchestrator.handles.run import Run
from orchestrator.settings.sources import load_settings

__all__ = ["Stack", "orchestrator_stack"]


@dataclass(frozen=True)
class Stack:
    """A server of its own and workers, for the tests of one process. `data_dir` is where it keeps
    all."""

    data_dir: Path

    def run(self, *source: Any, **options: Any) -> Run:
        """Run a pipeline to its end, as `orchestrator.run` does."""
        return run(*source, **options)

    def submit(self, *source: Any, **options: Any) -> Run:
        """Start a run, as `orchestrator.submit` does."""
        return submit(*source, **options)

    def open_run(self, run_id: str) -> Run:
        """Return a run by its id, the beginning of one, or "last"."""
        return open_run(run_id)

    def list_runs(self, **options: Any) -> list[Run]:
        """Return runs, newest first, as `orchestrator.list_runs` does."""
        return list_runs(**options)


@pytest.fixture(scope="session")
def orchestrator_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An embedded server with workers, started once for all tests of this process.

    Pools and all else are as configured, but for the server, the folders, and the alerts: those of
    the settings are not sent.
    """
    data_dir = tmp_path_factory.mktemp("orchestrator")
    own = {"redis_url": None, "data_dir": data_dir, "artifact_dir": None, "alerts": ()}
    settle(load_settings().model_copy(update=own))
    yield Stack(data_dir)
    close()
