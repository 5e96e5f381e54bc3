"""Trigger rules end to end: what runs when something above has failed, was skipped or succeeded."""

from __future__ import annotations

from pathlib import Path

from tests.support.fixtures import PipelineFrom, States
from tests.support.worker_runs import Runs

SOURCE = """
    @step
    def good():
        return "fine"

    @step
    def bad():
        raise ValueError("bad")

    @step
    def below(*values):
        return list(values)

    @pipeline
    def rules():
        fine, broken = good(), bad()
        skipped = below.options(name="skipped", trigger="one_failed")(fine)
        for rule in ("all_success", "all_done", "one_failed", "none_failed", "always"):
            under = below.options(name=f"fine-{rule}", trigger=rule)
            under(fine)
            below.options(name=f"broken-{rule}", trigger=rule)(fine, broken)
            below.options(name=f"skipped-{rule}", trigger=rule)(fine, skipped)
            below.options(name=f"deep-{rule}", trigger=rule).after("broken-all_success")()
"""


def test_each_rule_decides_by_how_its_upstreams_ended(
    runs: Runs, pipeline_from: PipelineFrom, states: States
) -> None:
    record = runs.run(pipeline_from(SOURCE))

    assert record.state == "failed"
    assert states(record) == {
        "good": "succeeded",
        "bad": "failed",
        "skipped": "skipped",
        "fine-all_success": "succeeded",
        "fine-all_done": "succeeded",
        "fine-one_failed": "skipped",
        "fine-none_failed": "succeeded",
        "fine-always": "succeeded",
        "broken-all_success": "upstream_failed",
        "broken-all_done": "succeeded",
        "broken-one_failed": "succeeded",
        "broken-none_failed": "upstream_failed",
        "broken-always": "succeeded",
        "skipped-all_success": "skipped",
        "skipped-all_done": "succeeded",
        "skipped-one_failed": "skipped",
        "skipped-none_failed": "succeeded",
        "skipped-always": "succeeded",
        "deep-all_success": "upstream_failed",
        "deep-all_done": "succeeded",
        "deep-one_failed": "succeeded",
        "deep-none_failed": "upstream_failed",
        "deep-always": "succeeded",
    }


def test_the_output_of_a_failed_or_skipped_upstream_is_none(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(pipeline_from(SOURCE))

    assert runs.value(record, "broken-always") == ["fine", None]
    assert runs.value(record, "skipped-always") == ["fine", None]


def test_one_failed_starts_at_the_first_failure_without_waiting_for_the_rest(
    runs: Runs, pipeline_from: PipelineFrom, states: States, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run_id = runs.submit(
        pipeline_from("""
            import pathlib, time

            @step
            def hold(gate):
                while not pathlib.Path(gate).exists():
                    time.sleep(0.01)

            @step
            def bad():
                raise ValueError("bad")

            @step(trigger="one_failed")
            def alarm(*values):
                return "called"

            @step(trigger="always")
            def sign_off(*values):
                return "signed"

            @pipeline
            def alarming(gate: str):
                above = hold(gate), bad()
                alarm(*above)
                sign_off(*above)
        """, {"gate": str(gate)})
    )  # fmt: skip

    record = runs.wait(run_id, lambda record: record.steps["alarm"].state == "succeeded")
    assert states(record) == {
        "hold": "running",
        "bad": "failed",
        "alarm": "succeeded",
        "sign_off": "waiting",
    }
    gate.touch()
    record = runs.wait(run_id)

    assert record.steps["sign_off"].state == "succeeded"
    assert (
        record.steps["sign_off"].attempts[0].started_at_us
        >= record.steps["hold"].attempts[0].ended_at_us
    )
