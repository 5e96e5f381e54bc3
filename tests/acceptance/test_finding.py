"""Finding runs again: by pipeline, state, label and age; params from a file."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
    params: {{fails: {{type: bool, default: false}}, word: {{type: str, default: "x"}}}}
    steps:
      {name}: {{run: 'test "${{{{ params.fails }}}}" = false; echo "${{{{ params.word }}}}"'}}
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, place_in):
    """A place with four runs: (pipeline, state, labels), the newest last."""
    place = place_in(tmp_path_factory.mktemp("finding") / "place")
    first, second = (place.write(f"{name}.yaml", STEPS.format(name=name)) for name in ("a", "b"))
    place.call("run", first, "--label", "team=red", "--label", "sweep=1")
    place.call("run", first, "-p", "fails=true", "--label", "team=red")
    place.call("run", second, "--label", "team=blue")
    place.call("run", second)
    return place


def found(place, *options: str) -> list[tuple[str, str, dict[str, str]]]:
    rows = place.call("runs", "--json", *options).json
    return [(row["pipeline"], row["state"], row.get("labels", {})) for row in rows]


RUNS = [
    ("b", "succeeded", {}),
    ("b", "succeeded", {"team": "blue"}),
    ("a", "failed", {"team": "red"}),
    ("a", "succeeded", {"team": "red", "sweep": "1"}),
]


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ((), [0, 1, 2, 3]),
        (("--limit", "2"), [0, 1]),
        (("--pipeline", "a"), [2, 3]),
        (("--state", "failed"), [2]),
        (("--label", "team=red"), [2, 3]),
        (("--label", "team=red", "--label", "sweep=1"), [3]),
        (("--pipeline", "b", "--limit", "1"), [0]),
        (("--since", "1h"), [0, 1, 2, 3]),
        (("--since", "0s"), []),
        (("--since", "2099-01-01"), []),
        (("--pipeline", "c"), []),
    ],
)
def test_runs_are_found_by(filled, options: tuple[str, ...], places: list[int]) -> None:
    assert found(filled, *options) == [RUNS[place] for place in places]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--since", "soon"), "'soon' is not a time. Write a date (2026-11-30)"),
        (("--label", "team"), "'team' is not a label. Write 'name=value'"),
        (("--label", "a b=c"), "'a b=c' is not a label."),
        (("--state", "done"), "'done' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(filled, options: tuple[str, ...], sentence: str) -> None:
    done = filled.call("runs", *options)

    assert done.code == 2
    assert sentence in done.err


def test_nothing_found_is_said(filled) -> None:
    assert "there is no such run" in filled.call("runs", "--pipeline", "c").err


def test_labels_stand_in_the_record_and_a_rerun_keeps_them(filled) -> None:
    (run_id,) = (row["run_id"] for row in filled.call("runs", "--label", "sweep=1", "--json").json)
    assert filled.call("show", run_id, "--json").json["labels"] == {"team": "red", "sweep": "1"}

    again = filled.call("rerun", run_id, "--json").json

    assert again["labels"] == {"team": "red", "sweep": "1"}


def test_labels_of_the_settings_are_on_every_run(place) -> None:
    place.variables["ORCHESTRATOR_LABELS"] = '{"team": "green", "host": "here"}'
    file = place.write("a.yaml", STEPS.format(name="a"))

    record = place.call("run", file, "--label", "team=red", "--json").json

    assert record["labels"] == {"team": "red", "host": "here"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.yaml", 'word: "007"\nfails: false\n'), ("p.json", '{"word": "007", "fails": false}')],
)
def test_params_may_stand_in_a_file_and_those_of_p_are_stronger(place, name, text) -> None:
    file = place.write("a.yaml", STEPS.format(name="a"))
    place.write(name, text)

    first = place.call("run", file, "--params-file", name, "--json").json
    second = place.call("run", file, "--params-file", name, "-p", "word=mine", "--json").json

    assert first["params"] == {"fails": False, "word": "007"}
    assert second["params"] == {"fails": False, "word": "mine"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", "p.yaml holds no mapping of params to values"),
        ("word: [", "this is not YAML"),
        ("werd: x", "there is no param 'werd'. Did you mean 'word'?"),
        (None, "p.yaml cannot be read"),
    ],
)
def test_a_file_of_params_that_makes_no_sense_is_refused(place, text, sentence) -> None:
    file = place.write("a.yaml", STEPS.format(name="a"))
    if text is not None:
        place.write("p.yaml", text)

    done = place.call("run", file, "--params-file", "p.yaml")

    assert done.code == 2
    assert sentence in done.err


def test_the_command_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--help"], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("Usage: orchestrator [OPTIONS] COMMAND")


def test_pages_go_on_where_the_last_one_ended_whatever_was_run_meanwhile(place) -> None:
    file = place.write("a.yaml", STEPS.format(name="a"))
    for _ in range(3):
        place.call("run", file)
    newest, middle, oldest = [row["run_id"] for row in place.call("runs", "--json").json]

    first = place.call("runs", "--limit", "2")
    assert [line.split()[0] for line in first.out.splitlines()] == [newest, middle]
    assert first.err == f"older ones: --before {middle}\n"
    place.call("run", file)
    second = place.call("runs", "--limit", "2", "--before", middle)
    assert [line.split()[0] for line in second.out.splitlines()] == [oldest]
    assert second.err == ""
    assert place.call("runs", "--before", "nothing").code == 2
