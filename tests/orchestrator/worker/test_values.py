"""Outputs reach the next step as they left the one before: exactly, inline when small, else from
the artifact store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.artifacts.reference import artifact_of
from tests.support.fixtures import PipelineFrom, States
from tests.support.worker_runs import Runs

PASS_ON = """
    @step
    def give():
        {body}

    @step
    def take(value):
        return repr(value), type(value).__name__

    @pipeline
    def passing():
        take(give())
"""

ECHO = """
    @step
    def give(size):
        return "x" * size

    @step
    def take(value):
        return len(value)

    @pipeline
    def echo(size: int):
        take(give(size))
"""


@pytest.mark.parametrize(
    ("body", "shown", "kind"),
    [
        ("return None", "None", "NoneType"),
        ("return (1, 'a', (2.5, None))", "(1, 'a', (2.5, None))", "tuple"),
        (
            "return {1: 'a', (2, 3): ['b'], '$tuple': 4}",
            "{1: 'a', (2, 3): ['b'], '$tuple': 4}",
            "dict",
        ),
        ("return [float('nan'), float('inf'), -0.0, 0.1]", "[nan, inf, -0.0, 0.1]", "list"),
        (
            "import numpy; return numpy.float32(1.5), numpy.int64(2)",
            "(np.float32(1.5), np.int64(2))",
            "tuple",
        ),
        (
            "import numpy; return numpy.datetime64(5, 'ns')",
            repr(np.datetime64(5, "ns")),
            "datetime64",
        ),
        ("import numpy; return numpy.array(5)", "array(5)", "ndarray"),
        (
            "import collections; return collections.Counter('aab')",
            "Counter({'a': 2, 'b': 1})",
            "Counter",
        ),
        (
            "import http; return http.HTTPStatus.OK, http.HTTPMethod.GET",
            "(<HTTPStatus.OK: 200>, <HTTPMethod.GET>)",
            "tuple",
        ),
        ("return 'é\\u0000\\ud83d\\ude00'.encode('utf-16', 'surrogatepass')", None, "bytes"),
        ("return {1, 2}", "{1, 2}", "set"),
        ("import datetime; return datetime.date(2026, 1, 2)", "datetime.date(2026, 1, 2)", "date"),
        (
            "import pathlib; return pathlib.PurePosixPath('/a')",
            "PurePosixPath('/a')",
            "PurePosixPath",
        ),
        ("return 'ä \\u2028 \\x00 \"quoted\"'", repr('ä \u2028 \x00 "quoted"'), "str"),
    ],
)
def test_a_value_keeps_its_type(
    runs: Runs, pipeline_from: PipelineFrom, body: str, shown: Any, kind: str
) -> None:
    record = runs.run(pipeline_from(PASS_ON.format(body=body)))

    told, told_kind = runs.value(record, "take")
    assert told_kind == kind
    assert shown is None or told == shown


def test_members_of_the_users_own_enum_reach_steps_as_themselves_and_a_shell_as_their_values(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import enum
            import numpy

            class Mode(enum.Enum):
                FAST = "fast"

            @step
            def give(mode):
                assert mode is Mode.FAST
                return {"mode": mode, "share": numpy.float32(0.5), "counts": {numpy.int64(1): numpy.bool_(True)}}

            @step
            def take(made):
                assert made["mode"] is Mode.FAST
                return [type(made["share"]).__name__, type(next(iter(made["counts"]))).__name__]

            chosen = PipelineBuilder("chosen")
            made = chosen.add("give", give, args=[Mode.FAST])
            chosen.add("take", take, args=[made])
            chosen.add("tell", run='printf "%s|" "${{ steps.give.output.mode }}" "${{ steps.give.output }}"')
        """)
    )

    assert runs.value(record, "take") == ["float32", "int64"]
    assert (
        runs.value(record, "tell") == 'fast|{"mode": "fast", "share": 0.5, "counts": {"1": true}}|'
    )


def test_parts_of_an_output_are_reached_by_key_and_index(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            @step
            def give() -> dict:
                return {"rows": [{"id": 7}, {"id": 8}], "pair": (1, 2)}

            @step
            def take(*values):
                return list(values)

            @pipeline
            def parts():
                made = give()
                take(made["rows"][-1]["id"], made["pair"], [made["rows"][0]])
        """)
    )

    assert runs.value(record, "take") == [8, (1, 2), [{"id": 7}]]


def test_a_missing_part_fails_the_step_and_says_what_there_is(
    runs: Runs, pipeline_from: PipelineFrom, states: States
) -> None:
    record = runs.run(
        pipeline_from("""
            @step
            def give() -> dict:
                return {"accuracy": 1, "loss": 2}

            @step
            def take(value):
                return value

            @pipeline
            def parts():
                take(give()["acuracy"])
        """)
    )

    assert states(record) == {"give": "succeeded", "take": "failed"}
    error = record.steps["take"].attempts[-1].error
    assert error.type == "KeyError"
    assert (
        "output of step 'give' has no 'acuracy'; its keys are 'accuracy', 'loss'" in error.message
    )


def test_small_json_is_inline_and_larger_goes_to_the_store(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    limit = runs.settings.inline_output_bytes

    at_limit = runs.run(pipeline_from(ECHO, {"size": limit - 2}))  # two quotes
    above = runs.run(pipeline_from(ECHO, {"size": limit - 1}))

    assert artifact_of(json.loads(at_limit.outputs["give"])) is None
    artifact = artifact_of(json.loads(above.outputs["give"]))
    assert artifact is not None
    assert artifact.kind == "str"
    assert (runs.value(at_limit, "take"), runs.value(above, "take")) == (limit - 2, limit - 1)


def test_a_large_array_passes_through_the_store_with_its_sha256(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import numpy

            @step
            def give():
                return numpy.arange(500_000, dtype="float32").reshape(1000, 500)

            @step
            def take(array):
                return array * 2

            @pipeline
            def arrays():
                take(give())
        """)
    )

    doubled = runs.value(record, "take")
    assert np.array_equal(doubled, np.arange(500_000, dtype="float32").reshape(1000, 500) * 2)
    artifact = artifact_of(json.loads(record.outputs["give"]))
    data = (runs.settings.artifact_root / artifact.path).read_bytes()
    assert (artifact.kind, artifact.size_bytes) == ("numpy.ndarray", len(data))
    assert artifact.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("harm", ["tampered", "deleted"])
def test_a_harmed_artifact_fails_the_step_that_reads_it(
    runs: Runs, pipeline_from: PipelineFrom, states: States, tmp_path: Path, harm: str
) -> None:
    """Harmed while a step in between holds the reader back."""
    gate = tmp_path / "gate"
    pipeline = pipeline_from("""
        import pathlib, time

        @step
        def give():
            return bytes(10_000)

        @step
        def hold(gate, value):
            pathlib.Path(gate).with_suffix(".held").touch()
            while not pathlib.Path(gate).exists():
                time.sleep(0.01)

        @step
        def take(value):
            return len(value)

        @pipeline
        def harmed(gate: str):
            value = give()
            take.after(hold(gate, value))(value)
    """, {"gate": str(gate)})  # fmt: skip
    run_id = runs.submit(pipeline)
    # it has its own copy of the value
    record = runs.wait(run_id, lambda record: gate.with_suffix(".held").exists())
    path = runs.settings.artifact_root / artifact_of(json.loads(record.outputs["give"])).path

    if harm == "tampered":
        path.write_bytes(path.read_bytes()[:-2] + b"\x01.")
    else:
        path.unlink()
    gate.touch()

    record = runs.wait(run_id)
    assert states(record) == {"give": "succeeded", "hold": "succeeded", "take": "failed"}
    error = record.steps["take"].attempts[-1].error
    assert error.type == "orchestrator.errors:ArtifactMissing"
    assert (
        "SHA-256 differs" if harm == "tampered" else "Do all workers share this folder"
    ) in error.message
    assert path.name in error.message


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("(number for number in [])", "generator"),
        ("__import__('threading').Lock()", "lock"),
        ("{'socket': __import__('socket').socket()}", "dict"),
    ],
)
def test_an_output_that_cannot_be_stored_fails_the_step_clearly(
    runs: Runs, pipeline_from: PipelineFrom, states: States, expression: str, told: str
) -> None:
    record = runs.run(pipeline_from(PASS_ON.format(body=f"return {expression}")))

    assert states(record) == {"give": "failed", "take": "upstream_failed"}
    error = record.steps["give"].attempts[-1].error
    assert error.type == "orchestrator.errors:OutputNotStored"
    assert error.message.startswith(f"the output, a {told}, cannot be stored: ")
    assert "cannot pickle" in error.message


def test_an_output_whose_class_refuses_to_be_stored_is_told_by_name(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            class Stubborn:
                def __reduce__(self):
                    raise RuntimeError("not me")

            @step
            def give():
                return Stubborn()

            @pipeline
            def refused():
                give()
        """)
    )

    error = record.steps["give"].attempts[-1].error
    assert error.type == "orchestrator.errors:OutputNotStored"
    assert (
        error.message == "the output, a Stubborn, cannot be stored: not me. Give back plain data."
    )


def test_a_number_of_thousands_of_digits_reaches_the_next_step(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            @step
            def give():
                return 10**5000

            @step
            def take(value):
                return value == 10**5000

            @pipeline
            def large():
                take(give())
        """)
    )

    assert runs.value(record, "take") is True


def test_an_output_of_a_class_of_the_users_module_reaches_another_process(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(
        pipeline_from("""
            import dataclasses

            @dataclasses.dataclass
            class Model:
                weights: list

            @step
            def train():
                return Model([1, 2])

            @step
            def use(model):
                assert type(model) is Model
                return sum(model.weights)

            @pipeline
            def classes():
                use(train())
        """)
    )

    assert runs.value(record, "use") == 3


def test_params_reach_steps_with_their_types(runs: Runs, pipeline_from: PipelineFrom) -> None:
    pipeline = pipeline_from("""
        @step
        def take(rate, names, options):
            return [type(rate).__name__, names, options]

        @pipeline
        def with_params(rate: float, names: list[str], options: dict[str, int]):
            take(rate, names, options)
    """, {"rate": 1, "names": ["a"], "options": {"b": 2}})  # fmt: skip

    assert runs.value(runs.run(pipeline), "take") == ["float", ["a"], {"b": 2}]
