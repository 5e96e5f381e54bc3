"""A plan to look at needs no param that its steps do not depend on."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from orchestrator.definition.loading import load
from orchestrator.definition.params import ReadParams, with_open_params
from orchestrator.definition.pipeline import Pipeline
from orchestrator.errors import PipelineInvalid

_numbers = itertools.count()  # a module of a name is loaded once

SOURCE = """
from orchestrator import Secret, pipeline, step

@step
def use(*values):
    return values

@pipeline
def given(rows: int, config: dict, token: Secret[str], names: list[str] = ["a", "b"]):
    first = use(rows, {"at": [config["rates"][0]]}, token)
    for name in names:
        use.options(name=f"use[{name}]")(first, config)

@pipeline
def one(rows: int, note: str):
    USE
"""
FILE = """
params: {rows: {type: int}, name: {type: str}}
steps:
  a: {run: "echo ${{ params.rows }} ${{ params.name }}"}
"""


def opened(target: str, **values: object) -> Pipeline:
    definition = load(target)
    return definition.build(with_open_params(definition.params, ReadParams(values)))


def test_steps_may_be_given_params_and_parts_of_them(tmp_path: Path) -> None:
    file = tmp_path / "given.py"
    file.write_text(SOURCE.replace("USE", "use(rows)"))

    pipeline = opened(f"{file}:given")

    assert list(pipeline.steps) == ["use", "use[a]", "use[b]"]
    assert pipeline.steps["use[a]"].upstream == ("use",)


def test_a_file_needs_no_param(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(FILE)

    assert list(opened(str(tmp_path / "one.yaml")).steps) == ["a"]


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("[use(n) for n in range(rows)]", "turned into a number"),
        ("use(1) if rows else None", "used as a bool"),
        ("use(1) if rows > 3 else None", "compared"),
        ("use(rows + 1)", "computed with"),
        ("use.options(name=f'use-{note}')(1)", "turned into text"),
        ("[use(part) for part in note]", "taken apart"),
        ("use(len(note))", "taken apart"),
        ("use(note[1:])", "indexed by slice"),
        ("use(note.upper())", "has no attribute 'upper'"),
        ("use('x' in note)", "searched with 'in'"),
    ],
)
def test_a_param_that_decides_about_the_steps_is_asked_for(
    tmp_path: Path, use: str, told: str
) -> None:
    file = tmp_path / f"open_{next(_numbers)}.py"
    file.write_text(SOURCE.replace("USE", use))

    with pytest.raises(PipelineInvalid) as refused:
        opened(f"{file}:one")

    (fault,) = refused.value.faults
    assert told in fault
    assert "-p note=…" in fault or "-p rows=…" in fault
    assert f"{file.name}:" in fault
