"""Where nobody does harm the safety net catches nothing."""

from __future__ import annotations

import pytest

from tests.support.site.site import Site


def test_a_healthy_run_shows_no_repair_and_no_refusal(
    shared: Site, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
        @step
        def work(number, *values):
            time.sleep(0.25)
            return number

        @step(retries=2, retry_delay=0.3)
        def again(number):
            if context.attempt < 3:
                raise ValueError("as planned")
            return number

        @step
        def slow():
            time.sleep(5)  # longer than three leases
            return "slow"

        @step
        def fork():
            subprocess.run("sleep 0.5 & wait", shell=True, check=True)

        @step
        def total(*values):
            return len(values)

        @pipeline
        def healthy():
            first = [work.options(priority=9)(number) for number in range(30)]
            second = [work.options(priority=number)(number, *first[number : number + 2]) for number in range(10)]
            third = [again(number).after(fork.options(name=f"fork-{number}")()) for number in range(8)]
            total(slow(), *first, *second, *third)
    """
    run, other = shared.submit(source), shared.submit(source)

    for record in (run.ended(), other.ended()):
        assert record.state == "succeeded"
        assert len(record.steps) == 58
        for name, step in record.steps.items():
            failures = ["failed"] * (2 if name.startswith("again") else 0)
            assert [attempt.outcome for attempt in step.attempts] == [*failures, "succeeded"]
    for it in (run, other):
        assert {event.kind for event in it.events()} == {
            *("run.created", "run.started", "run.succeeded"),
            *("step.queued", "step.started", "step.retrying", "step.succeeded"),
        }
    waited_s = max(
        (attempt.started_at_us - attempt.queued_at_us) / 1e6
        for step in record.steps.values()
        for attempt in step.attempts
    )
    assert waited_s > 2 * shared.settings.message_lost_after_s  # the queue was busy enough to tell
    assert not [it for it in caplog.records if it.name.startswith("orchestrator.coordinator")]
