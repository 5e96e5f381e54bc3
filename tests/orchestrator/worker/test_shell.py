"""Shell steps: exit codes, outputs, and values that reach the shell as values only."""

from __future__ import annotations

import pytest

SHELL = """
    shell = PipelineBuilder("shell", params={params!r})
    shell.add("given", "builtins:dict", kwargs={given!r})
    shell.add("command", run={run!r})
"""


@pytest.fixture
def shell(runs, pipeline_from):
    """Run a command below a step `given` whose output is a mapping; give the record."""

    def run(command, params=None, given=None):
        return runs.run(pipeline_from(SHELL.format(run=command, params=params or {}, given=given or {})))

    return run


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo plain text", "plain text"),
        ("printf 'two\\nlines\\n\\n'", "two\nlines"),
        ("true", None),
        ("echo 5", "5"),
        ("""echo '{"f1": 0.9, "labels": [1, 2]}'""", {"f1": 0.9, "labels": [1, 2]}),
        ("echo '[1, 2]'", [1, 2]),
        ("echo '[not json'", "[not json"),
        ("echo only this; echo to the log >&2", "only this"),
        ("cat", None),  # standard input is empty, not the worker's
    ],
)
def test_standard_output_is_the_output_and_json_is_parsed(runs, shell, command, output):
    assert runs.value(shell(command), "command") == output


def test_parts_of_a_parsed_output_reach_the_next_step(runs, pipeline_from):
    record = runs.run(
        pipeline_from("""
            shell = PipelineBuilder("shell")
            shell.add("score", run="echo '{\\"f1\\": 0.9, \\"tags\\": [\\"a\\", \\"b c\\"]}'")
            shell.add("tell", run="echo ${{ steps.score.output.f1 }} ${{ steps.score.output.tags[1] }}"
                                  " ${{ steps.score.output.tags }}")
        """)
    )

    assert runs.value(record, "tell") == '0.9 b c ["a", "b c"]'


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("exit 3", "the command ended with exit code 3: exit 3"),
        ("false; echo not reached", "the command ended with exit code 1: false; echo not reached"),
        ("kill -9 $$", "the command was killed by SIGKILL: kill -9 $$"),
        ("no-such-command-anywhere", "the command ended with exit code 127: no-such-command-anywhere"),
    ],
)
def test_a_command_that_fails_fails_the_step(runs, shell, command, told):
    record = shell(f"echo before; {command}" if "$$" in command else command)

    error = record.steps["command"].attempts[0].error
    assert record.state == "failed"
    assert error["type"] == "orchestrator.worker.calls:CommandFailed"
    assert error["message"] == told.replace(": kill", ": echo before; kill")


def test_both_streams_are_in_the_log(runs, shell):
    record = shell("echo out; echo err >&2; exit 1")

    assert sorted(runs.log(record, "command")) == ["err", "out"]


NASTY = [
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "a && touch x",
    "| touch x",
    'it\'s "quoted" \\ and $HOME',
    "two\nlines",
    "* ?",
    "-n",
    "ünï",
]


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("around", ["{}", '"{}"', "pre-{}-post"], ids=["bare", "double", "inside"])
def test_a_value_is_never_read_as_code(runs, shell, tmp_path, value, around):
    target = tmp_path / "out"
    written = around.format("${{ params.value }}")
    record = shell(f"cd '{tmp_path}'; printf '%s' {written} > '{target}'", params={"value": value})

    assert record.state == "succeeded"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py"] == ["out"]
    if around == '"{}"':
        assert target.read_text() == value


def test_values_reach_a_command_in_the_form_that_the_shell_knows(runs, shell):
    params = {"number": 0.5, "flag": True, "names": ["a", "b"], "nothing": None}
    command = " ".join(f'"${{{{ params.{name} }}}}"' for name in params)

    record = shell(f"printf '%s|' {command}", params=params)

    assert runs.value(record, "command") == '0.5|true|["a", "b"]|null|'


def test_a_large_output_of_another_step_reaches_a_command(runs, shell):
    record = shell('printf %s "${{ steps.given.output.text }}" | wc -c', given={"text": "x" * 100_000})

    assert runs.value(record, "command").strip() == "100000"


def test_variables_of_the_shell_are_left_alone(runs, shell):
    record = shell("value=5; echo $value ${value} '$${{ params.x }}'")

    assert runs.value(record, "command") == "5 5 ${{ params.x }}"


def test_a_command_that_is_stopped_is_asked_first_and_may_tidy_up(runs, pipeline_from, tmp_path):
    run_id = runs.submit(
        pipeline_from(f"""
            shell = PipelineBuilder("shell")
            trap = "trap 'echo tidied; touch {tmp_path}/tidied; exit 0' TERM"
            shell.add("slow", run=f"{{trap}}; touch {tmp_path}/ready; sleep 600 & wait")
        """)
    )
    runs.wait(run_id, lambda _: (tmp_path / "ready").exists())
    runs.ledger.cancel(run_id, "enough")
    runs.wait(run_id, lambda _: not runs.ledger.leased(run_id))

    record = runs.wait(run_id)
    assert record.steps["slow"].state == "cancelled"
    assert (tmp_path / "tidied").exists()
    assert runs.log(record, "slow") == ["tidied"]
