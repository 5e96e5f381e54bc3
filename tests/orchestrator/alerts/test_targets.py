"""Apprise URLs: what is taken from the environment, what is wrong with them, what of them is
shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.alerts.targets import read_target, read_targets

ROOT = Path(__file__).parents[3]
SLACK = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("json://user:secret@example.com:8080/secret?+X-Key=secret", "json://example.com:8080"),
        ("mailto://me:secret@example.com?to=a@example.com", "mailto://example.com"),
        (f"slack://{SLACK}/#ml", "slack://***"),
        (f"https://hooks.slack.com/services/{SLACK}", "slack://***"),
        ("slack://$SLACK/#ml", "slack://$SLACK"),
        ("$HOOK", "$HOOK"),
        ("${HOOK}", "$HOOK"),
        ("json://$HOST/path", "json://$HOST"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord://***"),
        ("notica://secret-token", "notica://***"),
        ("json://user:sec@ret@example.com", "json://***"),
        ("secret", "***"),
        ("slack://secret", "slack://***"),
    ],
)
def test_a_target_is_shown_without_what_may_be_secret(written: str, label: str) -> None:
    environment = {"SLACK": SLACK, "HOOK": "json://secret/secret", "HOST": "secret.example.com"}

    target = read_target(written, environment)

    assert target.label == label
    assert "secret" not in repr(target)
    assert SLACK not in repr(target)


def test_targets_that_look_alike_are_numbered_and_repeats_are_left_out() -> None:
    written = ["json://h/a", "json://g", "json://h/b", "json://h/a"]

    assert [target.label for target in read_targets(written, {})] == [
        "json://h (1)",
        "json://g",
        "json://h (2)",
    ]


def test_a_mark_says_nothing_of_the_environment() -> None:
    marks = {
        read_target("json://h/$PATH_PART", {"PATH_PART": part}).mark for part in ("a", "b", "")
    }

    assert len(marks) == 1


@pytest.mark.parametrize(
    ("written", "user", "password", "path"),
    [
        ("json://$USER:${SECRET}@h/$PLACE", "me@home", "p@ss/w:rd%41", "/a/b"),
        ("json://u:x@h/a-$PLACE-b", "u", "x", "/a-a/b-b"),
        ("json://u:%24x$@h", "u", "$x$", ""),
    ],
)
def test_variables_are_text_in_user_and_password_and_a_part_of_the_url_elsewhere(
    written: str, user: str, password: str, path: str
) -> None:
    target = read_target(written, {"USER": "me@home", "SECRET": "p@ss/w:rd%41", "PLACE": "a/b"})

    assert target.fault == ""
    assert (target.service.user, target.service.password, target.service.host) == (
        user,
        password,
        "h",
    )
    assert target.service.fullpath.rstrip("/") == path


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("slak://secret", "Apprise knows no service 'slak'. Did you mean 'slack'?"),
        ("secret", "it is not an Apprise URL, as in 'slack://$TOKEN/#ml'."),
        ("json://", "Apprise cannot read it as an address of its service 'json'."),
        (
            "https://example.com/secret",
            "Apprise knows no service at that address. A webhook is 'json://host/path', or",
        ),
        ("slack://secret-one/two", "Apprise cannot use it: An invalid Slack"),
        ("json://h/?method=secret", "Apprise cannot use it: "),
        (
            "json://$ORCHESTRATOR_REDIS_URL",
            "it reads ORCHESTRATOR_REDIS_URL, and ORCHESTRATOR_* is not given away.",
        ),
    ],
)
def test_a_url_that_apprise_cannot_use_has_a_fault_that_shows_no_secret(
    written: str, fault: str
) -> None:
    target = read_target(written, {"ORCHESTRATOR_REDIS_URL": "secret"})

    assert target.fault.startswith(fault)
    assert "secret" not in target.fault
    assert target.unset == ()


def test_variables_that_are_not_set_are_named() -> None:
    one = read_target("slack://$TOKEN", {"TOKEN": ""})
    two = read_target("json://$LOGIN:${SECRET}@h", {})

    assert (one.fault, one.unset) == ("the environment variable TOKEN is not set", ("TOKEN",))
    assert (two.fault, two.unset) == (
        "the environment variables LOGIN, SECRET are not set",
        ("LOGIN", "SECRET"),
    )


def test_what_a_service_says_is_told_without_the_words_of_the_url() -> None:
    target = read_target("json://me:hunter2@h/$TOKEN?+K=v-12345678", {"TOKEN": "t%2Fk"})

    said = target.hide(
        "me (hunter2) at h, t/k t%2Fk x-v-12345678-x: some\n message. hunter2. " + "x" * 1000
    )

    assert said.startswith("*** (***) at h, ***/*** *** x-***-x: some message. ***. xxx")
    assert len(said) < 400


def test_a_text_is_cut_where_the_service_cuts_unless_the_url_says_otherwise() -> None:
    assert read_target("json://h", {}).service.overflow_mode.value == "truncate"
    assert read_target("json://h?overflow=split", {}).service.overflow_mode.value == "split"


def test_apprise_is_loaded_only_when_there_is_a_target() -> None:
    code = (
        "import sys, orchestrator.alerts.delivery, orchestrator.runs.loading,"
        " orchestrator.cli.doctor\nfrom orchestrator.alerts.targets import"
        " read_targets\nread_targets([], {}), read_targets(['slack://$NOT_SET'], {})\nassert"
        " 'apprise' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
