"""Every error that people meet, and the hints in their texts.

OrchestratorError             what the user can mend; commands print it without a traceback
├── PipelineInvalid           a pipeline has faults; holds all of them
├── SettingsInvalid           a setting is unknown or has a wrong value
├── FunctionNotFound          a "module:function" leads nowhere, or a function has no such name
├── PlaceholderMisuse         a step's output was used as a value during the build (a TypeError)
├── PipelineMisuse            a pipeline was called like a function (a TypeError)
├── FormatUnknown             a run was written by another version, which this one cannot go on with
├── RunNotFound               no run, or more than one, matches the text
├── ResumeRefused             a run cannot be resumed now, or not as it was asked for
├── RerunRefused              a run cannot be the beginning of another one
├── StepNotRunnable           a step of a past run cannot be run at the desk
├── DeleteRefused             a run cannot be deleted now
├── RefusedInStep             a step uses the orchestrator itself, and its pool does not allow that
├── ServerUnreachable         the Redis server does not answer, or lets nobody in
├── EmbeddedServerError       the embedded server cannot be started or reached
├── LocalWorkerError          a local worker could not start, or died
├── OlderVersionThere         workers or coordinators of version 0.1 have to be stopped first
├── PoolUnknown               no setting names that pool
├── WorkerNameTaken           another worker has that name
├── RunFailed                 a run that a program waited for has not succeeded
└── StoreRefused              the artifact folder is not the installation's store, or cannot be used

What an attempt of a step fails with, beside the step's own errors
(in `retry_on`: "orchestrator.errors:StepTimedOut"):

StepTimedOut                  TimeoutError   it took longer than its step's timeout
MemoryLimitExceeded           MemoryError    it held more memory than its step's option allows
OutputNotStored               TypeError      its value cannot be stored
NoCeleryApp                   RuntimeError   it sends a Celery task, and its pool names no app
CeleryAppNotFound             RuntimeError   the app that its pool names cannot be loaded
CommandFailed                 Exception      its command ended with another code than 0
SignalReceived                Exception      somebody else than its worker signalled its process
DescriptorsClosed             Exception      it closed descriptors of its process
SecretsLost                   Exception      the server has lost the values of the run's secrets
ArtifactMissing               Exception      a value that it reads is gone, or has other bytes
ArtifactOfAnotherPython       Exception      another Python had pickled a value that it reads

Inside a step there are `StopRequested` and `NotInAttempt` too (`attempt_context.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from orchestrator.wording import counted

# beyond this many known words only those of like length and first letter are looked at
GUESSED_AMONG_MAX = 2000
NAMES_SHOWN, NAMES_CHARS = 100, 300  # most that a hint says of the names that there are


class OrchestratorError(Exception):
    """Root of every error that the user can mend; the CLI prints it without a traceback."""


class PipelineInvalid(OrchestratorError):
    """A pipeline has faults. `faults` holds one sentence for each, with name, reason and a
    near-miss guess."""

    def __init__(self, pipeline: str, faults: Iterable[str]) -> None:
        self.pipeline = pipeline
        self.faults = tuple(faults)
        head = f"pipeline {pipeline!r} has {counted(len(self.faults), 'fault')}"
        super().__init__(
            "\n".join([head, *("  " + fault.replace("\n", "\n  ") for fault in self.faults)])
        )

    def __reduce__(self) -> tuple[type[PipelineInvalid], tuple[str, tuple[str, ...]]]:
        return type(self), (self.pipeline, self.faults)


class SettingsInvalid(OrchestratorError):
    """A setting is unknown or has a wrong value; the message names each."""


class FunctionNotFound(OrchestratorError):
    """A function cannot be reached by its name; the message says which part of the name fails and
    why."""


class PlaceholderMisuse(OrchestratorError, TypeError):
    """A placeholder was used as if the output of its step were known already."""


class PipelineMisuse(OrchestratorError, TypeError):
    """A pipeline was called, as if it were a function or a step."""


class RunNotFound(OrchestratorError):
    """No run, or more than one, is meant by what the user wrote."""


class FormatUnknown(OrchestratorError):
    """A run was written by another version of the orchestrator, in a format that this one cannot go
    on with."""

    def __init__(self, run_id: str, found: int, known: int) -> None:
        if found > known:
            text = (
                f"is written in format {found}, by a newer version; this one knows {known}. Use the"
                " newer one"
            )
        else:
            text = (
                f"was begun by an older version, in format {found}, and has not ended; this one"
                f" goes on with runs of format {known} only. Let the older version end it, or"
                " cancel it and resume it here"
            )
        super().__init__(f"run {run_id} {text}")


class ResumeRefused(OrchestratorError):
    """A run cannot be resumed now, or not as it was asked for."""


class RunFailed(OrchestratorError):
    """A run has not succeeded. `run_id`, `state` and `cause` say which, how it is, and why."""

    def __init__(self, run_id: str, state: str, cause: str) -> None:
        super().__init__(f"run {run_id} is {state}: {cause}")
        self.run_id, self.state, self.cause = run_id, state, cause


class RerunRefused(OrchestratorError):
    """A run cannot be the beginning of another one now, or not as it was asked for."""


class StepNotRunnable(OrchestratorError):
    """A step of a past run cannot be run at the desk: something that it reads is not there."""


class DeleteRefused(OrchestratorError):
    """A run cannot be deleted: it has not ended, or another one needs it."""


class RefusedInStep(OrchestratorError):
    """A step uses the orchestrator itself, and its pool does not allow that."""


class ServerUnreachable(OrchestratorError):
    """The Redis server does not answer, or lets nobody in with the password that was given."""


class EmbeddedServerError(OrchestratorError):
    """The embedded server cannot be started or reached; the message holds the end of its log."""


class LocalWorkerError(OrchestratorError):
    """A local worker could not start, or died; the message holds the end of its log."""


class OlderVersionThere(OrchestratorError):
    """Workers or coordinators of a version are there that cannot work beside this one."""


class PoolUnknown(OrchestratorError):
    """A pool that no setting names."""


class WorkerNameTaken(OrchestratorError):
    """Another worker has the name, and would be taken for this one."""


class StoreRefused(OrchestratorError):
    """This host's artifact folder is not the store of the installation, or cannot be used."""


class StepTimedOut(TimeoutError):
    """An attempt took longer than its step's timeout."""


class MemoryLimitExceeded(MemoryError):
    """An attempt held more memory than its step's option `memory` allows."""


class OutputNotStored(TypeError):
    """A step returned a value that no other process can get, such as an open connection."""


class NoCeleryApp(RuntimeError):
    """A step sends a Celery task, and its pool names no app to send it with."""


class CeleryAppNotFound(RuntimeError):
    """The app that a pool's `celery_app` names cannot be loaded."""


class CommandFailed(Exception):
    """A shell command ended with a code other than 0."""


class SignalReceived(Exception):
    """The process that runs the step was sent a signal by somebody else than its worker."""


class DescriptorsClosed(Exception):
    """A step has closed descriptors of the process that runs it."""

    def __init__(self) -> None:
        super().__init__(
            "the step has closed file descriptors of the process that runs it, as os.closerange(3,"
            " …) does, or closing a number twice. Close only what the step has opened, or do it in"
            " a process that the step starts"
        )


class SecretsLost(Exception):
    """The run has secret params, and the server no longer has their values."""


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return " Did you mean 'x'?" for the nearest known word, or an empty string."""
    words = list(known)
    if len(words) > GUESSED_AMONG_MAX:
        alike = (w for w in words if w[:1] == word[:1] and abs(len(w) - len(word)) <= 3)
        words = list(islice(alike, GUESSED_AMONG_MAX))
    near = get_close_matches(word, words, n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def names_hint(word: str, known: Iterable[str]) -> str:
    """Return what helps who wrote a name that does not exist: the nearest known one, or else those
    that exist."""
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    if near := did_you_mean(word, names):
        return near
    if not names:
        return " There are none."
    shown = [repr(name) for name in names[:NAMES_SHOWN]]
    while len(shown) > 1 and len(", ".join(shown)) > NAMES_CHARS:
        shown.pop()
    if len(names) == 1:
        return f" There is only {shown[0]}."
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f" There are {', '.join(shown)}{more}."


class ArtifactMissing(Exception):
    """The store has no such artifact, or not with the bytes that were recorded."""


class ArtifactOfAnotherPython(Exception):
    """A value could not be unpickled, and another version of Python had pickled it."""
