"""What a failed attempt comes to: how it stands in the record, whether it is tried again, and why a
process died."""

from __future__ import annotations

import os
import random
import re
import signal
import traceback as tracebacks
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.attempt_context import StopRequested
from orchestrator.definition.options import StepOptions
from orchestrator.definition.retry import exception_names, may_retry, retry_delay_s
from orchestrator.error_card import ErrorCard
from orchestrator.errors import DescriptorsClosed, StepTimedOut
from orchestrator.ledger.entries import StepSpec
from orchestrator.ledger.states import Outcome, StepState
from orchestrator.ledger.values import Commit, OwnedAttempt, Refusal, Replaced
from orchestrator.processes.exit_status import how_it_ended
from orchestrator.worker.masking import NO_MASKS, Masks
from orchestrator.worker.own_descriptors import EXIT_CLOSED
from orchestrator.worker.process import WorkerProcess

TRACEBACK_CHARS = 16_000
MESSAGE_CHARS = 4_000
KERNEL_LOG_RECORDS = 100_000
_DEFAULT_OPTIONS = StepOptions()
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
_KERNEL_LOG = Path("/dev/kmsg")


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed attempt comes to, by the step's options."""

    error: BaseException
    outcome: Outcome
    retry_in_s: float | None

    @classmethod
    def of(
        cls, error: BaseException, options: StepOptions, try_number: int, said: str = ""
    ) -> Failure:
        """Judge a failure. `try_number` is the attempt's number without those that do not count;
        `told` is added to what is said of a timeout."""
        outcome = Outcome.FAILED
        if isinstance(error, StopRequested):
            outcome = Outcome.TIMED_OUT
            text = f"the attempt took longer than its timeout of {options.timeout or 0:g} s{said}"
            error = StepTimedOut(text).with_traceback(error.__traceback__)
        if not may_retry(options, try_number, exception_names(type(error))):
            return cls(error, outcome, None)
        return cls(error, outcome, retry_delay_s(options, try_number, random.random()))

    def for_commit(self, masks: Masks = NO_MASKS) -> dict[str, Any]:
        return {
            "detail": {"error": error_card(self.error, masks).to_json()},
            "retry_in_s": self.retry_in_s,
        }


def options_of(spec: StepSpec) -> StepOptions:
    return StepOptions.model_validate(spec.options) if spec.options else _DEFAULT_OPTIONS


def commit_for(
    process: WorkerProcess, held: OwnedAttempt, error: BaseException, text: str = ""
) -> Commit | Refusal:
    """Commit for an attempt that can no longer do it itself: its process was ended by its
    worker."""
    ledger = process.ledger
    spec = ledger.spec(held.run_id, held.step)
    if spec is None:
        return Refusal(f"run {held.run_id} has no step {held.step}")
    try_number = held.attempt - ledger.uncounted(held.run_id, held.step)
    failure = Failure.of(error, options_of(spec), try_number, text)
    return ledger.commit(held.id, 0, held.owner, failure.outcome, **failure.for_commit())


def report_death(
    process: WorkerProcess, held: OwnedAttempt, pid: int, error: BaseException
) -> None:
    """Report to the ledger that an attempt's process died, and of what; send off what follows from
    it.

    It failed, and was not lost, if it is the step that has made its process unusable.
    """
    if _exit_code(str(error)) == EXIT_CLOSED:
        _commit_failure(process, held, DescriptorsClosed())
        return
    kind, message = cause_of_death(str(error), pid)
    worker = held.worker
    _report_lost(
        process, held, ErrorCard(kind, message), f"process {pid} of worker {worker} is gone"
    )


def report_excess(process: WorkerProcess, held: OwnedAttempt, error: BaseException) -> None:
    """Commit the failure of an attempt that the kernel has ended for its own limit; send off what
    follows from it."""
    # its end counts in the groups above it too, and is not a sign for another child's death
    note_memory_events()
    _commit_failure(process, held, error)


def _commit_failure(process: WorkerProcess, held: OwnedAttempt, error: BaseException) -> None:
    answer = commit_for(process, held, error)
    if not isinstance(answer, Refusal):
        process.dispatcher.send(held.run_id, answer.ready)


def report_own_failure(
    process: WorkerProcess, held: OwnedAttempt, error: BaseException, masks: Masks = NO_MASKS
) -> None:
    """Report to the ledger that an attempt is lost to an error of our own code; sends off what
    follows from it.

    One that could not even be claimed is left to coordinators, who send it again at a pace that
    does no harm.
    """
    state, number = process.ledger.states(held.run_id).get(held.step, (None, 0))
    if state is StepState.QUEUED and number == held.attempt:
        return
    own = "the worker's own code failed"
    shown = masks("".join(tracebacks.format_exception(error)))  # with our own frames
    card = error_card(error, masks)
    card = ErrorCard(card.type, f"{own}: {card.message}", shown[-TRACEBACK_CHARS:])
    _report_lost(process, held, card, f"worker {held.worker} could not go on with it")


def _report_lost(process: WorkerProcess, held: OwnedAttempt, card: ErrorCard, found: str) -> None:
    detail = {"error": card.to_json(), "found": found}
    answer = process.ledger.report_lost(held.id, detail, owner=held.owner)
    if isinstance(answer, Replaced):
        process.dispatcher.send(held.run_id, answer.ready)


def cause_of_death(said: str, pid: int) -> tuple[str, str]:
    """Return kind and sentence for the death of a child, from what billiard says ("... signal 9
    (SIGKILL) ...")."""
    if found := re.search(r"signal (\d+)", said):
        number = int(found[1])
        text = f"its process {how_it_ended(-number)}"
        if number == signal.SIGKILL and (evidence := _out_of_memory(pid)):
            return "OutOfMemory", f"{text}: out of memory, says {evidence}"
        return "ProcessLost", text
    if (code := _exit_code(said)) is not None:
        if code == 128 + signal.SIGKILL:
            return "OutOfMemory", f"its process ended with exit code {code}, as when memory is out"
        return "ProcessLost", f"its process ended with exit code {code} in the middle of the step"
    return "ProcessLost", f"its process was lost: {said}"


def _exit_code(text: str) -> int | None:
    found = re.search(r"exitcode (\d+)", text)
    return int(found[1]) if found else None


_oom_kills_seen = 0


def note_memory_events() -> None:
    """Remember how many processes the kernel has killed in our cgroup for want of memory, to tell a
    new one later."""
    global _oom_kills_seen
    _oom_kills_seen = _oom_kills()


def _out_of_memory(pid: int) -> str:
    """Return who says that a process was killed for want of memory, as far as we may read it; "" if
    nobody does."""
    before = _oom_kills_seen
    note_memory_events()
    if _oom_kills_seen > before:
        return "the control group"
    with suppress(OSError), _KERNEL_LOG.open("rb", buffering=0) as log:
        os.set_blocking(log.fileno(), False)
        for _ in range(KERNEL_LOG_RECORDS):
            record = log.read(8192)  # one record a read; None at the end
            if not record:
                break
            if f"Killed process {pid} ".encode() in record:
                return "the kernel's log"
    return ""


def _oom_kills() -> int:
    with suppress(OSError, ValueError):
        for line in _MEMORY_EVENTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def error_card(error: BaseException, masks: Masks = NO_MASKS) -> ErrorCard:
    """Return an exception as the record keeps it: type, message, and a traceback without our own
    frames; masked."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_globals.get("__name__", "").split(".")[0] in {
        "workers",
        "orchestrator",
    }:
        frames = frames.tb_next
    # before anything is cut off
    text = masks("".join(tracebacks.format_exception(type(error), error, frames)))
    kind = type(error)
    return ErrorCard(
        kind.__qualname__ if kind.__module__ == "builtins" else exception_names(kind)[0],
        error_text(error, masks)[:MESSAGE_CHARS],
        text if len(text) <= TRACEBACK_CHARS else "…" + text[-TRACEBACK_CHARS:],
    )


def error_text(error: BaseException, masks: Masks = NO_MASKS) -> str:
    if type(error).__module__ == "bdb" and not error.args:  # a debugger that found no input
        return "a debugger has no terminal on a worker: orchestrator step RUN STEP runs it in yours"
    try:
        return masks(str(error))
    except Exception as raised:  # the user's own __str__
        return f"(its text cannot be read: {type(raised).__qualname__})"
