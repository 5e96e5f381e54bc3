"""`run_local()`, which all pipelines have, however they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Set by `orchestrator` itself: what runs a pipeline stands above what one is.
_runner: Callable[..., Any] | None = None


def set_local_runner(runner: Callable[..., Any]) -> None:
    """Have `run_local` call this with the pipeline and its params."""
    global _runner
    _runner = runner


class RunsLocally:
    """A pipeline that can be run in this process, without a server."""

    __slots__ = ()

    def run_local(self, *, params: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """Run the pipeline in this process, one step after the other, and return the run with
        `state`, `steps` and `output(step)`. For tests and notebooks.

        Steps get their inputs and give their outputs as on a worker, and trigger rules and retries
        are the same; retries do not wait, and nothing is timed out. Steps may be defined in a
        notebook; commands run here, too. Raises PipelineInvalid.
        """
        assert _runner is not None
        return _runner(self, {**(params or {}), **more})
