"""A run and its steps, shown to people: fan-outs together, what failed, one step in full; and what
steps print, while the run goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.place import Place

WIDE = """
    @step
    def rows(n: int):
        return {"numbers": list(range(n))}

    @step(retries=1, retry_delay=0)
    def fit(numbers, power, fold):
        if power == 9:
            raise ValueError("no power of 9")
        print("fitted", power, fold)
        return sum(numbers) ** power

    @step
    def best(scores):
        return max(scores)

    @pipeline
    def wide(n: int = 3):
        data = rows(n)
        best([fit.options(name=f"fit[{power}][{fold}]")(data["numbers"], power, fold)
              for power in (1, 2, 9) for fold in (1, 2)])
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, place_in: Callable[..., Place]) -> Place:
    place = place_in(tmp_path_factory.mktemp("showing") / "place")
    assert place.call("run", place.write("wide.py", WIDE)).code == 1
    return place


def rows(out: str) -> list[list[str]]:
    """Return the cells of a table's rows, by the columns of its head."""
    head, *lines = out.splitlines()
    starts = [head.index(name) for name in ("step", "state", "attempts", "took", "worker")]
    ends = [*starts[1:], None]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]


def test_items_of_a_fan_out_share_a_row_and_those_that_failed_have_their_own(wide: Place) -> None:
    table = rows(wide.call("show", "last").out)[:5]

    assert [row[:3] for row in table] == [
        ["rows", "succeeded", "1"],
        ["fit[..][..]", "4 succeeded, 2 failed", "8"],
        ["fit[9][1]", "failed", "2"],
        ["fit[9][2]", "failed", "2"],
        ["best", "upstream_failed", "0"],
    ]
    assert "s to 0." in table[1][3]
    assert all("local-" in row[4] for row in table[:4])  # its worker, though it is gone
    assert table[2][4].endswith("ValueError: no power of 9")


def test_each_item_or_only_what_failed_is_shown_on_demand(wide: Place) -> None:
    items = [row[0] for row in rows(wide.call("show", "last", "--items").out)]
    failed = [row[0] for row in rows(wide.call("show", "last", "--failed").out)]

    every = [f"fit[{power}][{fold}]" for power in (1, 2, 9) for fold in (1, 2)]
    assert items[:8] == ["rows", *every, "best"]
    assert failed == ["fit[9][1]", "fit[9][2]"]


def test_one_step_is_shown_with_attempts_arguments_and_output(wide: Place) -> None:
    shown = wide.call("show", "last", "fit[2][1]").out.splitlines()
    assert shown[0].startswith("step fit[2][1] of run ")
    assert shown[0].endswith(": succeeded")
    assert shown[1] == "  pool cpu, after rows; below it: best"
    assert shown[2].startswith("  attempt 1 succeeded, took 0.")
    assert shown[3:] == [
        "  called: wide:fit(",
        '    <output of rows["numbers"]: dict, 19 B>,',
        "    2,",
        "    1,",
        "  )",
        "  output: 9",
    ]
    failed = wide.call("show", "last", "fit[9][1]").out.splitlines()
    assert [line.split(",")[0] for line in failed[2:6:2]] == [
        "  attempt 1 failed",
        "  attempt 2 failed",
    ]
    assert failed[3] == failed[5] == "    ValueError: no power of 9"
    below = wide.call("show", "last", "best").out.splitlines()
    events = wide.call("events", "last", "--json").json
    first = next(event["step"] for event in events if event["event"] == "step.failed")
    assert first in ("fit[9][1]", "fit[9][2]")  # both fail, in two slots
    assert below[1:] == ["  pool cpu, after fit[..][..] (6)", f"  because of {first}"]
    as_json = wide.call("show", "last", "fit[2][1]", "--json").json
    assert (as_json["state"], as_json["output"], as_json["arguments"]["args"][1:]) == (
        "succeeded",
        9,
        [2, 1],
    )
    unknown = wide.call("show", "last", "fit[2][3]")
    assert (unknown.code, unknown.err.startswith("RunNotFound: run ")) == (2, True)
    assert "has no step 'fit[2][3]'. Did you mean 'fit[2][" in unknown.err


def test_what_steps_print_is_shown_between_their_beginnings_and_ends(place: Place) -> None:
    file = place.write(
        "talking.yaml",
        """
        steps:
          first: {run: "echo one; sleep 1; echo two"}
          second: {run: "echo try; test -e tried || { touch tried; exit 1; }", needs: first,
                   retries: 1, retry_delay: 0}
        """,
    )

    done = place.call("run", file, "--logs")

    words = [line[13:] if line[2:3] == ":" else line for line in done.out.splitlines()]
    shown = [word.partition(":")[0] for word in words if word.startswith(("first", "second"))]
    assert shown == [
        "first started",
        "first | one",
        "first | two",
        "first succeeded",
        "second started",
        "second | try",
        "second retrying",
        "second started (attempt 2)",
        "second attempt 2 | try",
        "second succeeded (attempt 2)",
    ]
    again = place.call("rerun", "last", "--from", "second", "--logs", "--json")
    assert again.err.splitlines()[0] == "second | try"
    assert again.json["state"] == "succeeded"
