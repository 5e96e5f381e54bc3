"""A run of a site, waited for and judged at its end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.definition.pipeline import Pipeline
from orchestrator.ledger.events import REPAIRS, Event
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.compile import compile_pipeline
from orchestrator.record.run import RunRecord, read_record, read_skeleton
from orchestrator.record.verification import verify_run
from orchestrator.runs.resumption import plan_resume, resume, wait_for_stopping
from orchestrator.runs.stored import read_run
from tests.support.site.constants import GONE_LIMIT_S, LIMIT_S
from tests.support.site.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.site.site import Site

Repair = tuple[str, str, str]  # event, step, what was found (regular expression)


@dataclass
class Run:
    """A run on a site."""

    site: Site
    run_id: str
    pipeline: Pipeline
    folder: Path  # of its code, where its steps leave notes
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = self.site.ledger

    def note(self, name: str) -> None:
        (self.folder / name).touch()

    def noted(self, name: str) -> str | None:
        """Return what a step noted under a name, None if it has not done so."""
        path = self.folder / name
        return path.read_text() if path.exists() else None

    def wait_for_note(self, name: str) -> str:
        wait_until(lambda: self.noted(name) is not None)
        return self.noted(name) or ""

    def state(self, step: str) -> str:
        states = self.ledger.states(self.run_id)
        return states[step][0].value if step in states else "waiting"

    def events(self, name: str = "", step: str = "") -> list[Event]:
        return [
            event
            for event in self.ledger.events(self.run_id)
            if (not name or event.kind == name) and (not step or event.step == step)
        ]

    def wait(
        self,
        until: Callable[[RunRecord], object] = lambda record: record.state.is_ended,
        within_s: float = LIMIT_S,
    ) -> RunRecord:
        """Return the record once the condition holds. Somebody else has to coordinate."""
        record, after = read_skeleton(self.ledger, self.run_id), "0"
        limit = time.monotonic() + within_s
        while not until(record):
            assert time.monotonic() < limit, f"not within {within_s:g} s: {self.story()}"
            if events := self.ledger.wait_for_events(self.run_id, after, 0.2):
                after = events[-1].id
                record.apply(events)
        record.outputs = self.ledger.outputs(self.run_id)
        return record

    def wait_for(self, step: str, state: str, within_s: float = LIMIT_S) -> RunRecord:
        return self.wait(lambda record: record.steps[step].state == state, within_s)

    def story(self) -> str:
        """Return the events as lines, for people."""
        begin, lines = 0, [""]
        for event in self.events():
            begin = begin or event.at_us
            told = (
                f"{(event.at_us - begin) / 1e6:8.3f} {event.kind:20} {event.step}:{event.attempt}"
            )
            lines.append(f"{told} {json.dumps(event.fields)[:300]}")
        return "\n".join(lines)

    def resume(self, *from_steps: str) -> None:
        """Let the run go on, as the command of that name does."""
        site = self.site
        wait_for_stopping(self.ledger, site.settings, self.run_id)
        plan, recorded = compile_pipeline(self.pipeline), read_run(self.ledger, self.run_id)
        resume(self.ledger, site.app, plan_resume(recorded, plan, site.settings, from_steps))

    def ended(
        self,
        repairs: Iterable[Repair] | Callable[[list[Event]], object] = (),
        within_s: float = LIMIT_S,
    ) -> RunRecord:
        """Wait for the end and check what must hold at the end of every run: see `check`."""
        self.wait(within_s=within_s)
        return self.check(repairs)

    def check(self, repairs: Iterable[Repair] | Callable[[list[Event]], object] = ()) -> RunRecord:
        """Check a run that has ended, and give its record.

        It is terminal, its record is free of violations, each step that succeeded has one committed
        success, the safety net did what `repairs` say and no more, and no process of a step is
        left.
        """
        self.site.assert_nothing_left()
        wait_until(lambda: not self.ledger.leased(self.run_id), GONE_LIMIT_S)
        events, record = self.events(), read_record(self.ledger, self.run_id)
        assert record.state.is_ended, self.story()
        assert not verify_run(self.ledger, self.run_id).violations, self.story()
        last_resume = max(
            (place for place, it in enumerate(events) if it.kind == "run.resumed"), default=0
        )
        again = {
            step
            for it in events[last_resume:]
            if it.kind == "run.resumed"
            for step in it.fields["again"]
        }
        for name, step in record.steps.items():
            assert step.state.is_ended, self.story()
            successes = [
                place
                for place, it in enumerate(events)
                if it.kind == "step.succeeded"
                and it.step == name
                and (name not in again or place > last_resume)
            ]
            assert len(successes) == (step.state == "succeeded"), f"{name}: {self.story()}"
            assert all(attempt.ended_at_us for attempt in step.attempts), f"{name}: {self.story()}"
        self._check_repairs([event for event in events if event.kind in REPAIRS], repairs)
        return record

    def _check_repairs(
        self, found: list[Event], expected: Iterable[Repair] | Callable[[list[Event]], object]
    ) -> None:
        if callable(expected):
            assert expected(found), self.story()
            return
        left = list(found)
        for event, step, pattern in expected:
            match = [
                it
                for it in left
                if it.kind == event
                and it.step == step
                and re.search(pattern, str(it.fields["found"]))
            ]
            assert match, f"no {event} of {step} found {pattern!r}: {self.story()}"
            left.remove(match[0])
        assert not left, f"repairs that nobody needs: {left} {self.story()}"
