"""Shell steps: exit codes, outputs, and values that reach the shell as values only."""

from __future__ import annotations

import pathlib
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings.model import Settings
from tests.support.fixtures import PipelineFrom
from tests.support.shell import error_of
from tests.support.worker_runs import OwnWorker, Runs


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
        ("echo '{'", "{"),
        ("echo '  [1, 2'", "  [1, 2"),
        ("printf '[%05000d]' 1 | tr 0 1", f"[{'1' * 5000}]"),  # more digits than Python reads
        ("printf '%0100000d' 0 | tr 0 '['", "[" * 100_000),  # deeper than Python reads
        ("printf ' \\t\\r\\n {\"a\": 1}  \\n\\n'", {"a": 1}),
        ("printf '\\n[1]'", [1]),
        ('echo \'{"a": 1} {"b": 2}\'', '{"a": 1} {"b": 2}'),
        ("echo only this; echo to the log >&2", "only this"),
        ("cat", None),  # standard input is empty, not the worker's
    ],
)
def test_standard_output_is_the_output_and_json_is_parsed(
    runs: Runs, shell: Any, command: str, output: dict[str, Any] | list[Any] | str | None
) -> None:
    assert runs.value(shell(command), "command") == output


def test_parts_of_a_parsed_output_reach_the_next_step(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
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
        (
            "no-such-command-anywhere",
            "the command ended with exit code 127: no-such-command-anywhere",
        ),
    ],
)
def test_a_command_that_fails_fails_the_step(
    runs: Runs, shell: Any, command: str, told: str
) -> None:
    record = shell(f"echo before; {command}" if "$$" in command else command)

    error = record.steps["command"].attempts[0].error
    assert record.state == "failed"
    assert error.type == "orchestrator.errors:CommandFailed"
    assert error.message == told.replace(": kill", ": echo before; kill")


def test_both_streams_are_in_the_log(runs: Runs, shell: Any) -> None:
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
def test_a_value_is_never_read_as_code(
    runs: Runs, shell: Any, tmp_path: Path, value: str, around: str
) -> None:
    target = tmp_path / "out"
    written = around.format("${{ params.value }}")
    record = shell(f"cd '{tmp_path}'; printf '%s' {written} > '{target}'", params={"value": value})

    assert record.state == "succeeded"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py"] == ["out"]
    if around == '"{}"':
        assert target.read_text() == value


def test_values_reach_a_command_in_the_form_that_the_shell_knows(runs: Runs, shell: Any) -> None:
    params = {"number": 0.5, "flag": True, "names": ["a", "b"], "nothing": None}
    command = " ".join(f'"${{{{ params.{name} }}}}"' for name in params)

    record = shell(f"printf '%s|' {command}", params=params)

    assert runs.value(record, "command") == '0.5|true|["a", "b"]|null|'


def test_a_large_output_of_another_step_reaches_a_command(runs: Runs, shell: Any) -> None:
    record = shell(
        'printf %s "${{ steps.given.output.text }}" | wc -c', given={"text": "x" * 100_000}
    )

    assert runs.value(record, "command").strip() == "100000"


def test_variables_of_the_shell_are_left_alone(runs: Runs, shell: Any) -> None:
    record = shell("value=5; echo $value ${value} '$${{ params.x }}'")

    assert runs.value(record, "command") == "5 5 ${{ params.x }}"


def test_a_command_that_is_stopped_is_asked_first_and_may_tidy_up(
    own_worker: OwnWorker, settings: Settings, pipeline_from: PipelineFrom, tmp_path: Path
) -> None:
    # on a busy machine, tidying up takes its time
    patient = settings.model_copy(update={"timeout_grace_s": 100.0})
    pipeline = pipeline_from(f"""
        shell = PipelineBuilder("shell")
        trap = "trap 'echo tidied; touch {tmp_path}/tidied; exit 0' TERM"
        shell.add("slow", run=f"{{trap}}; touch {tmp_path}/ready; sleep 600 & wait")
    """)
    with own_worker(1, patient) as runs:
        run_id = runs.submit(pipeline)
        runs.wait(run_id, lambda _: (tmp_path / "ready").exists())
        runs.ledger.cancel(run_id, "enough")
        runs.wait(run_id, lambda _: not runs.ledger.leased(run_id))

        record = runs.wait(run_id)
        assert record.steps["slow"].state == "cancelled"
        assert (tmp_path / "tidied").exists()
        assert runs.log(record, "slow") == ["tidied"]


BIG = 300_000


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (
            'printf %s "${{ steps.given.output.text }}"',
            ['${{ steps.given.output["text"] }} (300,000 bytes)'],
        ),
        ('printf %s "${{ steps.given.output }}"', ["${{ steps.given.output }} (300,0"]),
        (
            'printf %s "${{ params.word }}" "${{ steps.given.output.text }}"',
            ['${{ steps.given.output["text"] }}'],
        ),
    ],
)
def test_a_value_that_is_too_long_for_a_command_fails_before_it_starts_and_is_named(
    runs: Runs, shell: Any, command: str, named: list[Any]
) -> None:
    record = shell(
        f"echo started >&2; {command}", params={"word": "short"}, given={"text": "x" * BIG}
    )

    assert record.state == "failed"
    assert runs.log(record, "command") == []
    for name in named:
        assert name in error_of(record)
    assert "params" not in error_of(record)
    assert "${{ file(steps.given.output" in error_of(record)


def test_many_values_that_are_too_long_together_are_named(runs: Runs, shell: Any) -> None:
    params = {f"word{number:02}": "x" * 100_000 for number in range(65)}
    command = "true " + " ".join(f"${{{{ params.{name} }}}}" for name in params)

    record = shell(command, params=params)

    assert record.state == "failed"
    assert "Argument list too long" in error_of(record)
    assert re.search(
        r"\$\{\{ params.word\d\d }} \(100,000 bytes\), .* and \d+ more", error_of(record)
    )


def test_a_command_that_is_too_long_itself_says_so(runs: Runs, shell: Any) -> None:
    record = shell(f"# {'x' * BIG}")

    assert record.state == "failed"
    assert "the command itself is too long: 300,002 bytes" in error_of(record)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ("return 'é' * 200_000", "é" * 200_000),
        ("return ''", ""),
        ("return 'a\\0b'", "a\0b"),
        ("return None", "null"),
        ("return 5", "5"),
        (
            "return {'a': [1, (2,)], 'text': 'x' * 200_000}",
            '{"a": [1, [2]], "text": "' + "x" * 200_000 + '"}',
        ),
        ("import numpy; return numpy.float32(0.5)", "0.5"),
        ("return b'\\x00ab'", "\0ab"),
        ("import pathlib; return pathlib.PurePosixPath('/a b')", "/a b"),
        ("import numpy; return numpy.array([1, 2])", "[1, 2]"),
    ],
)
def test_a_file_has_the_whole_value_for_as_long_as_the_command_runs(
    runs: Runs, pipeline_from: PipelineFrom, tmp_path: Path, body: str, content: str
) -> None:
    copy, path = tmp_path / "copy", tmp_path / "path"
    record = runs.run(
        pipeline_from(f"""
            def give():
                {body}

            shell = PipelineBuilder("shell", params={{"word": "a param"}})
            shell.add("give", give)
            shell.add("command", run='''
                cat "${{{{ file(steps.give.output) }}}}" > {copy}
                echo "${{{{ file(steps.give.output) }}}}" > {path}
                ls -ld "$(dirname "${{{{ file( params.word ) }}}}")" "${{{{file(params.word)}}}}"
                cat "${{{{ file(params.word) }}}}"
            ''')
        """)
    )

    assert record.state == "succeeded", record
    assert copy.read_bytes() == content.encode()
    folder, file, word = runs.value(record, "command").split("\n")
    assert (folder[:10], file[:4], word) == ("drwx------", "-rw-", "a param")
    gone = pathlib.Path(path.read_text().strip())
    assert not gone.exists()
    assert not gone.parent.exists()


@pytest.mark.parametrize("ending", ["exit 3", "sleep 600"])
def test_the_files_are_gone_however_the_attempt_ends(
    runs: Runs, pipeline_from: PipelineFrom, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "path"
    record = runs.run(
        pipeline_from(f"""
            shell = PipelineBuilder("shell", params={{"word": "a"}})
            shell.add("command", run='echo "${{{{ file(params.word) }}}}" > {path}; {ending}', timeout=1)
        """)
    )

    assert record.state == "failed"
    assert not pathlib.Path(path.read_text().strip()).parent.exists()


def test_the_files_of_a_process_that_was_killed_are_gone_with_its_worker(
    own_worker: OwnWorker, pipeline_from: PipelineFrom, tmp_path: Path
) -> None:
    path = tmp_path / "path"
    with own_worker() as runs:
        record = runs.run(
            pipeline_from(f"""
                shell = PipelineBuilder("shell", params={{"word": "a"}})
                command = 'echo "${{{{ file(params.word) }}}}" > {path}; kill -9 $PPID; sleep 600'
                shell.add("command", run=command, lost_attempts=1)
            """)
        )

    assert record.state == "failed"
    assert not pathlib.Path(path.read_text().strip()).parent.exists()


@pytest.mark.parametrize(
    ("value", "told"), [("a\0b", "holds a NUL"), ("a\ud83db", "is not Unicode text")]
)
def test_a_value_that_no_variable_can_hold_names_its_reference(
    runs: Runs, shell: Any, value: str, told: str
) -> None:
    record = shell(
        'echo "${{ params.fine }}" "${{ params.value }}"', params={"fine": "a", "value": value}
    )

    assert record.state == "failed"
    assert f"${{{{ params.value }}}} {told}" in error_of(record)
    assert "file(params.value)" in error_of(record)


@pytest.mark.parametrize("body", ["return 10**5000", "made = []; made.append(made); return made"])
@pytest.mark.parametrize("reference", ["steps.give.output", "file(steps.give.output)"])
def test_a_value_that_json_cannot_say_names_its_reference(
    runs: Runs, pipeline_from: PipelineFrom, body: str, reference: str
) -> None:
    record = runs.run(
        pipeline_from(f"""
            @step
            def give():
                {body}

            told = PipelineBuilder("told")
            told.add("give", give)
            told.add("take", run="echo ${{{{ {reference} }}}}")
        """)
    )

    error = record.steps["take"].attempts[-1].error
    assert error.type.endswith(":ReferenceUnusable")
    assert "steps.give.output" in error.message
    assert "has no JSON form" in error.message
