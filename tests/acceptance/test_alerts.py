"""Alerts as a user sets them: what the commands say of targets, without their secrets."""

from __future__ import annotations

import json
from contextlib import ExitStack

from tests.support.webhook import serving


def test_doctor_tells_how_many_targets_there_are_and_what_is_wrong_with_them(place):
    place.variables["ORCHESTRATOR_ALERTS"] = json.dumps(
        ["json://me:secret@example.com/secret", "slak://secret", "slack://$NOT_SET_HERE"]
    )

    told, as_json = place.call("doctor"), place.call("doctor", "--json")

    assert told.code == 0
    lines = [line for line in told.out.splitlines() if " alerts: " in line]
    assert lines == [
        "warning  alerts: slak://***: Apprise knows no service 'slak'. Did you mean 'slack'?",
        "warning  alerts: slack://$NOT_SET_HERE: the environment variable NOT_SET_HERE is not set",
        "ok       alerts: 1 of 3 targets can be notified: json://example.com",
    ]
    shown = as_json.json["settings"]["alerts"]
    assert shown == ["json://example.com", "slak://***", "slack://$NOT_SET_HERE"]
    assert "secret" not in told.out + told.err + as_json.out + as_json.err


def test_doctor_says_when_nobody_is_told(place):
    assert (
        "ok       alerts: no target is set: nobody is notified when a run fails"
        in place.call("doctor").out
    )


def test_a_pipeline_whose_alerts_nobody_could_send_is_refused(place):
    file = place.write(
        "told.yaml", "{alerts: ['slak://secret', 'json://$NOT_SET_HERE'], deadline: -1, steps: {}}"
    )
    refused = place.call("plan", file)

    assert refused.code == 2
    assert "key 'deadline' is -1, but it must be greater than 0." in refused.err

    place.write("told.yaml", "{alerts: ['slak://secret', 'json://$NOT_SET_HERE'], steps: {}}")
    for command in ("plan", "run", "submit"):
        refused = place.call(command, file)
        assert refused.code == 2
        assert (
            "alerts[0], slak://***: Apprise knows no service 'slak'. Did you mean 'slack'?"
            in refused.err
        )
        assert "secret" not in refused.out + refused.err
        assert "Traceback" not in refused.err


FAILING = """
    name: nightly
    steps:
      train: {run: "echo epoch 1; exit 3"}
      report: {run: "true", needs: train}
"""


def test_a_run_that_fails_tells_before_the_command_ends(place):
    with serving() as hook:
        place.variables["ORCHESTRATOR_ALERTS"] = json.dumps([hook.url("$HOOK", "me:secret@")])
        place.variables["HOOK"] = "hidden-hook"
        place.write("nightly.yaml", FAILING)
        done = place.call("run", "nightly.yaml", "--json")
        again = place.call("run", "nightly.yaml")

    assert (done.code, again.code) == (1, 1)
    first, _ = hook.messages("hidden-hook")
    assert first["title"].startswith("pipeline nightly failed: step train failed in attempt 1 on ")
    assert f"orchestrator resume {done.json['run_id']}" in first["message"]
    assert "| epoch 1" in first["message"]
    events = place.call("events", done.json["run_id"], "--json")
    assert [event["detail"] for event in events.json if event["event"] == "alert.sent"] == [
        {"target": hook.label, "try": 1}
    ]
    for told in (done, again, events):
        assert "secret" not in told.out + told.err
        assert "hidden" not in told.out + told.err


def test_a_missed_deadline_tells_too(place):
    with serving() as hook:
        file = place.write(
            "slow.yaml",
            f"{{deadline: 1, alerts: ['{hook.url('hook')}'], steps: {{slow: {{run: sleep 60}}}}}}",
        )
        done = place.call("run", file)

    assert done.code == 1
    assert [body["title"] for body in hook.messages("hook")] == [
        "pipeline slow failed: missed its deadline of 1 s"
    ]


def test_what_a_run_could_not_tell_is_left_to_a_coordinator(place, wait_until):
    with serving() as hook:
        hook.answers["hook"] = [500, 500]  # run itself tries twice, within ten seconds
        place.write("nightly.yaml", FAILING)
        place.variables["ORCHESTRATOR_ALERTS"] = json.dumps([hook.url("hook")])
        done = place.call("run", "nightly.yaml")
        assert done.code == 1
        assert len(hook.messages("hook")) == 2

        with place.start("serve") as coordinator:
            try:
                wait_until(lambda: len(hook.messages("hook")) == 3, 40)
            finally:
                coordinator.terminate()
                coordinator.communicate(timeout=120)
        assert (
            "not everybody could be notified yet that it failed: orchestrator serve goes on trying"
            in done.err
        )
        events = [event["event"] for event in place.call("events", "last", "--json").json]

    assert [event for event in events if event.startswith("alert.")] == [
        "alert.failed",
        "alert.failed",
        "alert.sent",
    ]


def test_a_run_leaves_it_to_a_coordinator_for_all_to_tell_people(
    place, wait_until, shared_redis_url
):
    """It may know of targets that the one who follows the run does not."""
    place.write("nightly.yaml", FAILING)
    place.variables |= {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": "telling",
    }
    place.variables["ORCHESTRATOR_POOLS"] = '{"cpu": {"queue": "telling-cpu"}}'
    with serving() as hook, ExitStack() as services:
        place.variables["ORCHESTRATOR_ALERTS"] = hook.url("hook")
        for command in (["serve"], ["worker", "--concurrency", "1"]):
            services.callback(end, services.enter_context(place.start(*command)))
        wait_until(
            lambda: (
                "coordinators: none" not in (found := place.call("doctor").out)
                and "1 slots" in found
            )
        )
        del place.variables["ORCHESTRATOR_ALERTS"]

        for number in (1, 2, 3):
            assert place.call("run", "nightly.yaml").code == 1
            wait_until(lambda number=number: len(hook.messages("hook")) == number)


def end(process):
    process.terminate()
    process.communicate(timeout=120)
