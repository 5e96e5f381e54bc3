"""Commands that only look: plan, schema, runs, show, events, logs; and the live panel on a
terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.support.terminal import read_to_the_end

DIAMOND = """
    description: Two sides, one redundant edge.
    params: {note: none}
    steps:
      d: {run: "echo ${{ params.note }}", needs: [b, c, a]}
      b: {run: "true", needs: a}
      b2: {run: "true", needs: b}
      c: {run: "echo said by c; echo aloud by c >&2", needs: a}
      a: {uses: "time:sleep", args: [0], description: First of all.}
"""

FAILING = """
    import time

    @step(retries=1, retry_delay=0.3, retry_jitter=0)
    def flaky(value):
        print("trying")
        raise ValueError("never works\\nsecond line")

    @step
    def begin():
        time.sleep(0.2)
        return [1, 2, 3]

    @step(trigger="one_failed")
    def alarm(value):
        return "called"

    @step
    def below(value):
        return value

    @pipeline
    def failing():
        value = flaky(begin())
        below(value)
        alarm(value)
"""


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory, place_in):
    """A folder in which one run has succeeded and one has failed."""
    place = place_in(tmp_path_factory.mktemp("looking"))
    place.write("diamond.yaml", DIAMOND)
    place.write("failing.py", FAILING)
    assert place.call("run", "diamond.yaml", "-p", "note=kept").code == 0
    assert place.call("run", "failing.py").code == 1
    return place


def test_plan_as_json_has_the_chains_and_chords(looked_at):
    done = looked_at.call("plan", "diamond.yaml", "--json")

    assert done.code == 0
    plan = done.json
    keys = [
        "pipeline",
        "steps",
        "edges",
        "redundant_edges",
        "chains",
        "chords",
        "roots",
        "largest_message_bytes",
    ]
    assert {*keys, "compile_s"} <= set(plan)
    assert plan["pipeline"] == "diamond"
    assert (plan["steps"], plan["edges"]) == (5, 6)
    assert (plan["redundant_edges"], plan["redundant"]) == (1, [["a", "d"]])
    assert sorted(plan["chains"]) == [["a"], ["b"], ["b2"], ["c"], ["d"]]
    chain_of = {chain[0]: number for number, chain in enumerate(plan["chains"])}
    assert plan["roots"] == [chain_of["a"]]
    chords = sorted((sorted(chord["header"]), chord["body"]) for chord in plan["chords"])
    expected = [(["a"], "b"), (["a"], "c"), (["b"], "b2"), (["b", "c"], "d")]
    assert chords == sorted(
        (sorted(chain_of[name] for name in header), chain_of[body]) for header, body in expected
    )
    assert 0 < plan["largest_message_bytes"] < 8192
    assert 0 <= plan["compile_s"] < 1


def test_plan_for_people_shows_what_it_comes_to_and_starts_nothing(tmp_path, place_in):
    place = place_in(tmp_path)
    done = place.call("plan", place.write("diamond.yaml", DIAMOND))

    assert done.code == 0
    for word in ("1  a", "2  b, c", "Critical path", "a → d"):
        assert word in done.out, done.out
    assert "chain" not in done.out
    assert "Chords: " in place.call("plan", "diamond.yaml", "--celery").out
    assert [path.name for path in place.folder.iterdir()] == ["diamond.yaml"]


def test_schema_describes_pipeline_files(looked_at):
    schema = looked_at.call("schema").json

    assert schema["type"] == "object"
    keys = {"name", "description", "params", "defaults", "steps", "deadline", "alerts"}
    assert set(schema["properties"]) == keys
    assert schema["required"] == ["steps"]
    step = schema["properties"]["steps"]["additionalProperties"]["properties"]
    assert {
        "uses",
        "run",
        "args",
        "with",
        "needs",
        "pool",
        "retries",
        "retry_on",
        "trigger",
        "timeout",
    } <= set(step)


def test_runs_are_listed_newest_first(looked_at):
    listed = looked_at.call("runs", "--json").json

    assert [run["pipeline"] for run in listed] == ["failing", "diamond"]
    assert set(listed[0]) == {"run_id", "pipeline", "state", "created_at", "ended_at", "steps"}
    assert listed[0]["steps"] == {"succeeded": 2, "failed": 1, "upstream_failed": 1}
    text = looked_at.call("runs").out.splitlines()
    assert [line.split()[0] for line in text] == [run["run_id"] for run in listed]
    assert len(looked_at.call("runs", "--limit", 1).out.splitlines()) == 1


def test_show_tells_a_person_what_failed_and_why(looked_at):
    done = looked_at.call("show", "last")

    assert done.code == 0
    rows = {line.split()[0]: line.split()[1:3] for line in done.out.splitlines()[:5]}
    assert rows["flaky"] == ["failed", "2"]
    assert rows["below"] == ["upstream_failed", "0"]
    assert rows["alarm"] == ["succeeded", "1"]
    assert "because of flaky" in done.out
    assert "flaky failed after 2 attempts: ValueError: never works" in done.out
    assert "| trying" in done.out


def test_a_run_is_named_by_the_beginning_of_its_id_or_refused(looked_at):
    newest, older = (run["run_id"] for run in looked_at.call("runs", "--json").json)

    assert looked_at.call("show", newest[:-4], "--json").json["run_id"] == newest
    assert looked_at.call("show", older, "--json").json["params"] == {"note": "kept"}
    ambiguous = looked_at.call("show", newest[:8])
    assert ambiguous.code == 2
    assert f"is the beginning of 2 runs: {newest}, {older}\n" in ambiguous.err


def test_logs_tell_step_and_attempt_where_it_is_not_clear(looked_at):
    older = looked_at.call("runs", "--json").json[1]["run_id"]

    assert sorted(looked_at.call("logs", older).out.splitlines()) == [
        "c | aloud by c",
        "c | said by c",
        "d | kept",
    ]
    assert sorted(looked_at.call("logs", older, "c").out.splitlines()) == [
        "aloud by c",
        "said by c",
    ]
    lines = looked_at.call("logs", "last").out.splitlines()
    second = lines.index("flaky attempt 2 | trying")
    assert lines[0] == "flaky attempt 1 | trying"
    assert all(line.startswith("flaky attempt 1 | ") for line in lines[:second])
    assert all(line.startswith("flaky attempt 2 | ") for line in lines[second:])
    nothing = looked_at.call("logs", "last", "begin")
    assert (nothing.code, nothing.out) == (0, "")
    unknown = looked_at.call("logs", "last", "flakey")
    assert unknown.code == 2
    assert "has no step 'flakey'. Did you mean 'flaky'?" in unknown.err


def test_logs_say_how_many_lines_were_dropped_and_lines_keep_their_numbers(place):
    place.call("run", place.write("noisy.yaml", "steps: {noisy: {run: seq 1 2234}}"))

    lines = place.call("logs", "last").out.splitlines()
    numbered = place.call("logs", "last", "noisy", "--numbers").out.splitlines()
    (told,) = place.call("logs", "last", "--json").json

    assert lines[:2] == ["noisy | … 1,234 earlier lines dropped", "noisy | 1235"]
    assert (numbered[1], numbered[-1]) == ("1235: 1235", "2234: 2234")
    assert (told["dropped"], told["lines"][0], len(told["lines"])) == (1234, "1235", 1000)


def test_logs_end_with_the_traceback_of_an_attempt_that_failed(looked_at, place):
    lines = looked_at.call("logs", "last", "flaky", "--attempt", 2).out.splitlines()
    assert lines[:2] == [
        "flaky attempt 2 | trying",
        "flaky attempt 2 | Traceback (most recent call last):",
    ]
    assert lines[-2:] == [
        "flaky attempt 2 | ValueError: never works",
        "flaky attempt 2 | second line",
    ]

    told = looked_at.call("logs", "last", "--json").json
    made = looked_at.call("show", "last", "--json").json["steps"]["flaky"]["attempts"]
    assert [entry["error"] for entry in told] == [attempt["error"] for attempt in made]
    older = looked_at.call("runs", "--json").json[1]["run_id"]
    assert all("error" not in entry for entry in looked_at.call("logs", older, "--json").json)

    place.call(
        "run", place.write("silent.yaml", "steps: {silent: {uses: 'time:sleep', args: [-1]}}")
    )
    silent = place.call("logs", "last", "silent")
    assert silent.out.splitlines()[-1] == "ValueError: sleep length must be non-negative"
    assert silent.err == ""


def test_a_skipped_step_blames_its_trigger_rule_and_no_step_that_succeeded(place):
    file = place.write(
        "skipping.yaml",
        "steps: {best: {run: 'true'}, alert: {run: 'true', needs: best, trigger: one_failed}}",
    )

    told = place.call("run", file).out + place.call("show", "last").out
    assert "alert skipped: its trigger rule cannot come true\n" in told
    assert re.search(r"^alert +skipped +0 +its trigger rule cannot come true$", told, re.MULTILINE)
    assert "because of" not in told
    assert place.call("show", "last", "--json").json["steps"]["alert"]["because"] == "best"


def test_times_are_rfc_3339_in_utc_to_the_microsecond(looked_at):
    for command in ("runs", "show last", "events last"):
        text = looked_at.call(*command.split(), "--json").out
        times = re.findall(r'_?at": "([^"]+)"', text)
        assert times
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", at) for at in times)


def test_a_person_reads_when_a_retry_is_due_as_a_time(looked_at):
    told = looked_at.call("events", "last").out

    assert re.search(
        r"step\.retrying flaky attempt 1 .*due_at=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told
    )


def test_a_run_on_a_terminal_shows_a_live_panel(place):
    file = place.write("failing.py", FAILING)
    place.variables["TERM"] = "xterm-256color"
    ours, theirs = pty.openpty()
    process = place.start(
        "run", file, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = read_to_the_end(ours)
    os.close(ours)

    assert process.wait(10) == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "Traceback" not in text
    assert "failing" in text
    assert "▸ begin" in text
    assert "begin succeeded" in text
    assert "flaky retrying: ValueError: never works; retry at" in text
    assert "4/4" in text
    assert "\x1b[?25l" in shown  # the cursor is hidden ...
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # ... and comes back
    assert re.search(r"run \S+ failed in .*2 succeeded, 1 failed, 1 upstream_failed", text)


def test_ctrl_c_on_a_terminal_ends_the_panel_and_cancels(place):
    file = place.write("long.yaml", "steps: {long: {run: 'sleep 600'}}")
    place.variables["TERM"] = "xterm-256color"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, place.command, "run", file],
        cwd=place.folder,
        env=place.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    read_to_the_end(ours, until="▸ long")
    os.write(ours, b"\x03")
    text = read_to_the_end(ours)
    os.close(ours)

    assert process.wait(10) == 130
    assert "reason: interrupted by Ctrl-C" in text
    assert "Traceback" not in text
    assert "\x1b[?25h" in text
    assert place.processes() == []


AT_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_text_that_no_terminal_can_show_is_told_in_escapes(place):
    path = place.write(
        "odd.py",
        """
        def fail():
            raise ValueError("a file named \\udc80")

        odd = PipelineBuilder("odd")
        odd.add("fail", fail)
        """,
    )

    for command in (["run", path], ["show", "last"], ["events", "last"]):
        done = place.call(*command)
        assert "a file named \\udc80" in done.out
        assert "Traceback" not in done.err
