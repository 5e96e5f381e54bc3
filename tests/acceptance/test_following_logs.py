"""`logs --follow`: each line once, while the steps write, until the run has ended."""

from __future__ import annotations

import json
import signal

import pytest

TALKING = """
    steps:
      first: {run: "echo one; touch talking; until test -e go; do sleep 0.05; done; echo two"}
      quiet: {run: "true", needs: first}
      again: {run: "echo try; test -e tried || { touch tried; exit 1; }", needs: first, retries: 1,
              retry_delay: 0}
"""


def test_lines_are_printed_while_the_step_writes_and_each_once(place, wait_until) -> None:
    file = place.write("talking.yaml", TALKING)
    with place.start("run", file) as run:
        wait_until((place.folder / "talking").exists)
        with place.start("logs", "last", "--follow") as following:
            assert following.stdout.readline() == "first | one\n"
            assert following.poll() is None
            (place.folder / "go").touch()
            rest, errors = following.communicate(timeout=60)
        run.communicate(timeout=60)

    assert sorted(rest.splitlines()) == ["again attempt 2 | try", "again | try", "first | two"]
    assert (run.returncode, following.returncode, errors) == (0, 0, "")


@pytest.fixture
def ended(place):
    place.write("go", "")
    place.write("tried", "")
    place.call("run", place.write("talking.yaml", TALKING))
    return place


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ((), ["first | one", "first | two", "again | try"]),
        (("first",), ["first | one", "first | two"]),
        (("first", "--numbers"), ["first | 1: one", "first | 2: two"]),
        (("quiet",), []),
    ],
)
def test_of_a_run_that_has_ended_all_is_printed(ended, options, lines) -> None:
    done = ended.call("logs", "last", *options, "--follow")

    assert (done.code, done.out.splitlines()) == (0, lines)


def test_for_programs_it_is_one_object_a_line(ended) -> None:
    done = ended.call("logs", "last", "first", "--follow", "--json")

    first, second = map(json.loads, done.out.splitlines())
    assert first == {"step": "first", "attempt": 1, "number": 1, "text": "one", "missing": 0}
    assert (second["number"], second["text"]) == (2, "two")


def test_an_unknown_step_and_one_attempt_are_refused(ended) -> None:
    assert (
        "has no step 'frist'. Did you mean 'first'?"
        in ended.call("logs", "last", "frist", "-f").err
    )
    assert "leave --attempt out" in ended.call("logs", "last", "-f", "--attempt", "1").err


def test_ctrl_c_ends_it_and_leaves_the_run_alone(place, wait_until) -> None:
    with place.start("run", place.write("talking.yaml", TALKING)) as run:
        wait_until((place.folder / "talking").exists)
        with place.start("logs", "last", "--follow") as following:
            following.stdout.readline()
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=30)
        assert place.call("runs", "--json").json[0]["state"] == "running"
        (place.folder / "go").touch()
        run.communicate(timeout=60)

    assert (run.returncode, following.returncode) == (0, 130)
