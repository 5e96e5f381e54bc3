"""Alerts as a user sets them: what the commands say of targets, without their secrets."""

from __future__ import annotations

import json


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
        "ok       alerts: 1 of 3 targets can be told: json://example.com",
    ]
    shown = as_json.json["settings"]["alerts"]
    assert shown == ["json://example.com", "slak://***", "slack://$NOT_SET_HERE"]
    assert "secret" not in told.out + told.err + as_json.out + as_json.err


def test_doctor_says_when_nobody_is_told(place):
    assert "ok       alerts: no target is set: nobody is told when a run fails" in place.call("doctor").out


def test_a_pipeline_whose_alerts_nobody_could_send_is_refused(place):
    file = place.write("told.yaml", "{alerts: ['slak://secret', 'json://$NOT_SET_HERE'], deadline: -1, steps: {}}")
    refused = place.call("plan", file)

    assert refused.code == 2
    assert "key 'deadline' is -1, but it must be greater than 0." in refused.err

    place.write("told.yaml", "{alerts: ['slak://secret', 'json://$NOT_SET_HERE'], steps: {}}")
    for command in ("plan", "run", "submit"):
        refused = place.call(command, file)
        assert refused.code == 2
        assert "alerts[0], slak://***: Apprise knows no service 'slak'. Did you mean 'slack'?" in refused.err
        assert "secret" not in refused.out + refused.err
        assert "Traceback" not in refused.err
