"""What the ledger takes and answers, as values, and what it raises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.entries import StepEntry, StepSpec
from orchestrator.ledger.pages import list_fields
from orchestrator.ledger.states import RunState, StepState


class Link(NamedTuple):
    """One step of a chain, as its message needs it. `timeout_s` is 0 when there is none."""

    step: str
    attempt: int
    queue: str
    priority: int
    timeout_s: float


class Chain(NamedTuple):
    """Steps that one message starts, one after the other, and the name of their run's pipeline."""

    pipeline: str
    links: tuple[Link, ...]


class Ready(tuple[Chain, ...]):
    """Chains to dispatch. With `has_more` the call has left work in the front of the run: whoever
    got this answer goes on with it (`Ledger.go_on`)."""

    has_more: bool = False

    @classmethod
    def of(cls, chains: Iterable[Chain], has_more: bool) -> Ready:
        ready = cls(chains)
        ready.has_more = has_more
        return ready


@dataclass(frozen=True, slots=True)
class StagedStep:
    """A step on its way into the ledger, each part as JSON text; the head of lua/keys.lua says what
    is in it.

    `children` and `inputs` are empty text where there are none. `output` is that of a step which is
    taken over from another run: the one that `reused` names, as "place attempt run"; both are empty
    for all other steps.
    """

    step: str
    graph: str
    children: str
    inputs: str
    spec: str
    output: str = ""
    reused: str = ""

    @property
    def entry(self) -> StepEntry:
        return StepEntry.from_json(self.graph)

    @property
    def parsed_spec(self) -> StepSpec:
        return StepSpec.from_json(self.spec)

    def as_words(self, page: int) -> Iterable[str]:
        """Return the columns of the script's operation `stage`, in as many rows as the longest
        list has pages."""
        rows = zip_longest(
            list_fields(self.step, self.children, page),
            list_fields(self.step, self.inputs, page),
            fillvalue=("", ""),
        )
        first = self.graph, self.spec, self.output, self.reused
        for (key, children), (same, inputs) in rows:
            graph, spec, output, reused = first if key == self.step else _NOTHING
            yield from (key or same, graph, children, inputs, spec, output, reused)


_NOTHING = ("", "", "", "")


class Reused(NamedTuple):
    """The attempt, of another run, whose success and output a step has taken over."""

    run_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A granted claim: the attempt may begin, and only the holder of `token` may commit it.

    Tokens grow with every claim of the run, and none comes again even if the server has forgotten
    the last ones.
    """

    token: int
    spec: StepSpec
    params_wire: dict[str, Any]
    import_path: str
    pipeline: str
    uncounted: int  # attempts before this one that do not count against the step's retries
    outputs: dict[str, str]  # step -> JSON text of its output, "" for null
    code_id: str = ""  # of the submitted digests, see Ledger.submitted_code
    # None: the server has lost them
    secrets: dict[str, str] | None = field(default_factory=dict, repr=False)
    # the step reads more than a page of outputs, which `Ledger.outputs_for` returns
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The ledger said no. That is not an error: messages are hints, and a duplicate or a late one
    gets this answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that counts. `ready` are the chains to dispatch now; `is_chain_going_on` says that
    Celery's own chain message may go on with the next link."""

    state: StepState
    is_chain_going_on: bool
    ready: Ready


@dataclass(frozen=True, slots=True)
class OwnedAttempt:
    """An attempt as the main process of its worker knows it. `owner` names the process that runs
    it, see `owner_of`."""

    id: AttemptId
    owner: str

    @property
    def run_id(self) -> str:
        return self.id.run_id

    @property
    def step(self) -> str:
        return self.id.step

    @property
    def attempt(self) -> int:
        return self.id.attempt

    @property
    def worker(self) -> str:
        return self.owner.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """An attempt that runs, or is being stopped because its step was cancelled, and whose lease has
    run out. `incarnation` is its worker's, see `owner_of`."""

    step: str
    attempt: int
    worker: str
    incarnation: str
    expired_at_us: int
    is_stopping: bool


@dataclass(frozen=True, slots=True)
class LeasedAttempt:
    """An attempt that a worker holds: it runs, or is being stopped because its step was
    cancelled."""

    step: str
    attempt: int
    worker: str
    is_stopping: bool
    since_us: int  # when it was claimed, or cancelled
    lease_until_us: int


@dataclass(frozen=True, slots=True)
class WaitingList:
    """A list of the broker in which messages of a run should lie; the oldest was sent at
    `oldest_at_us`."""

    queue: str
    level: int
    oldest_at_us: int


@dataclass(frozen=True, slots=True)
class DueReport:
    """What `advance_due` did and found. `state` is None when there is no such run; `ready` is to be
    dispatched."""

    state: RunState | None
    next_due_us: int | None
    now_us: int
    ready: Ready
    expired: tuple[ExpiredLease, ...] = ()
    waiting: tuple[WaitingList, ...] = ()
    alert_at_us: int | None = None
    clock_step: int = 0  # the last step of the server's clock that the run was shifted by
    is_judged: bool = True  # False: by this clock nothing can be said of times now

    @property
    def next_due_in_s(self) -> float | None:
        """Return the seconds until something is due; None if nothing is."""
        return (
            None if self.next_due_us is None else max(0.0, (self.next_due_us - self.now_us) / 1e6)
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing will ever have to be done for this run, unless somebody resumes it."""
        return self.state is None or (
            self.state.is_ended and self.next_due_us is None and self.alert_at_us is None
        )


@dataclass(frozen=True, slots=True)
class Replaced:
    """What became of a step whose attempt was lost, handed over or put back. `ready` is to be
    dispatched."""

    state: StepState
    ready: Ready


@dataclass(frozen=True, slots=True)
class BackOff:
    """When an attempt that is put back is due again: after `first_s`, then twice that, and so on up
    to `longest_s`."""

    first_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class AlertTry:
    """The right to send the alerts of a failed run now. `number` counts from 1; `sent` are targets
    that know already.

    `incident` distinguishes one end of the run from another one after a resume.
    """

    number: int
    sent: tuple[str, ...]
    incident: str


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """The last lines that an attempt wrote. `dropped` is how many came before them, so the first is
    `dropped` + 1."""

    lines: tuple[str, ...]
    dropped: int


class RunExists(Exception):
    """A run of that id is already started."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id} is already started; submit under another id, or under none to get a"
            " new one"
        )


class RunUnknown(LookupError):
    """The ledger holds no such run."""


class StepUnknown(LookupError):
    """The run has no such step."""


class RunNotEnded(Exception):
    """Only a run that has ended can be resumed; the text is its state."""


class RunSucceeded(Exception):
    """A run that has succeeded is not resumed; the text is its id."""


class AttemptsStopping(Exception):
    """`count` attempts of a cancelled run are still being stopped. Until they are gone nothing may
    run anew."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} attempts of the run are still being stopped")
        self.count = count


class ResumedMeanwhile(Exception):
    """Somebody else has resumed the run since this resume was planned."""


def owner_of(worker: str, incarnation: str, pid: int) -> str:
    """Return how the ledger names one process of a worker; the `claim_id` of its claims begins with
    what follows it.

    The incarnation tells a worker from one of the same name before a restart, whose processes may
    have had equal ids.
    """
    return f"{worker} {incarnation}.{pid}."


def incarnation_in(holder: str) -> tuple[str, str]:
    """Return worker and incarnation of the holder of an attempt, which is "worker claim_id"."""
    worker, _, claim_id = holder.partition(" ")
    return worker, claim_id.partition(".")[0]
