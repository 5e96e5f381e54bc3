"""Pipelines in YAML and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Pipeline, PipelineBuilder, PipelineInvalid
from orchestrator.definition.document import (
    ParamDocument,
    PipelineDocument,
    PipelineFile,
    StepDocument,
    pipeline_file_schema,
)
from orchestrator.definition.names import step_name_fault
from orchestrator.definition.options import StepOptions
from orchestrator.definition.params import PLAIN_TYPES
from orchestrator.definition.pipeline import FunctionCall, OutputRef, ParamRef, ShellCall, Template
from orchestrator.definition.yaml_text import read_json, read_yaml

CHURN = """
name: churn
description: Train a model.
params:
  gate: 0.8
  rate: 1e-3
  kinds: [svc, tree]
  since: 2024-01-01
  mode: {type: string, default: fast, choices: [fast, full], description: How much.}
  rows: {type: int}
  note: {type: str, default: null}
defaults: {retries: 2, pool: cpu}
steps:
  report:
    run: echo "${{ steps.train[svc-1].output.score }}" > ${{ params.mode }}
    needs: train.b
  train[svc-1]:
    uses: os:getcwdb
    timeout: 5
  train.b:
    uses: json:dumps
    args: ["${{ steps.train[svc-1].output }}"]
    with: {indent: "${{ params.rows }}", default: "x-${{ params.gate }}", sort_keys: true, separators: "$${{ a }}"}
    needs: [sleep]
    retries: 0
    retry_on: [ValueError]
  sleep: {uses: "time:sleep", args: [0.1]}
"""


def build(text: str, params: dict[str, Any] | None = None) -> Pipeline:
    value, faults = read_yaml(text, "file")
    return PipelineFile(value, "file", faults).build(params)


def faults_of(text: str, params: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(PipelineInvalid) as caught:
        build(text, params)
    return list(caught.value.faults)


def test_a_file_becomes_a_pipeline() -> None:
    built = build(CHURN, {"rows": 4})

    assert (built.name, built.description) == ("churn", "Train a model.")
    assert list(built.steps) == ["report", "train[svc-1]", "train.b", "sleep"]
    assert built.params == {
        "gate": 0.8, "rate": 0.001, "kinds": ["svc", "tree"], "since": "2024-01-01",
        "mode": "fast", "rows": 4, "note": None,
    }  # fmt: skip
    report, train_b = built.steps["report"], built.steps["train.b"]
    assert report.call == ShellCall(
        Template(('echo "', OutputRef("train[svc-1]", ("score",)), '" > ', ParamRef("mode")))
    )
    assert report.upstream == ("train[svc-1]", "train.b")
    assert report.options == StepOptions(retries=2, pool="cpu")
    assert train_b.call == FunctionCall(
        "json:dumps",
        (OutputRef("train[svc-1]"),),
        {
            "indent": ParamRef("rows"),
            "default": Template(("x-", ParamRef("gate"))),
            "sort_keys": True,
            "separators": "${{ a }}",
        },
    )
    assert train_b.upstream == ("train[svc-1]", "sleep")
    assert train_b.options == StepOptions(pool="cpu", retries=0, retry_on=("ValueError",))


def test_json_says_the_same_as_yaml() -> None:
    value, _ = read_yaml(CHURN, "file")
    same, faults = read_json(json.dumps(value), "file")
    assert not faults
    assert PipelineFile(same, "x").build({"rows": 4}) == build(CHURN, {"rows": 4})


def test_a_file_without_steps_is_fine_and_takes_the_name_of_the_file() -> None:
    assert build("steps: {}").name == "file"


def test_all_faults_are_told_at_once() -> None:
    faults = faults_of(
        """
nmae: churn
params:
  gate: {type: float, defualt: 1}
  kind: {type: flot}
  n: {type: int, default: abc}
defaults: {retires: 1}
steps:
  a: {uses: "json:dumps", arg: [1], args: [1]}
  b: {run: "echo ${{ steps.aa.output }} ${{ param.x }}", retries: "3"}
  c: {run: "x ${{ params.gat }}", args: [1]}
  d:
  e: 5
  f: {uses: 7, needs: [aaa], args: ["${{ steps.bb.output }}"]}
  g: {uses: "json:dumps", run: x, with: {obj: 1}}
  h: {uses: "json:dumps", args: ["${{ steps.b"], needs: 5}
  i: {uses: "json.dumps"}
  on: {run: x, needs: h}
""",
        {"x": 1},
    )
    for said in (
        "the file has an unknown key 'nmae'. Did you mean 'name'?",
        "param 'gate' has an unknown key 'defualt'. Did you mean 'default'?",
        "param 'kind': key 'type' is 'flot', but it must be 'str'",
        "Did you mean 'float'?",
        "default: param 'n' is 'abc', which is not an int.",
        "defaults has an unknown option 'retires'. Did you mean 'retries'?",
        "there is no param 'x'.",
        "step 'a' has an unknown key 'arg'. Did you mean 'args'?",
        (
            "step 'b': '${{ param.x }}' begins with neither 'params.' nor 'steps.'. Did you mean"
            " 'params'?"
        ),
        "step 'b': key 'retries' is '3', but it must be a valid integer.",
        "step 'c' reads param 'gat', which is not declared. Did you mean 'gate'?",
        "step 'c' gives arguments to a command.",
        "step 'd' has neither a function (uses) nor a command (run).",
        "step 'e' is 5, but must be a mapping.",
        "step 'f': key 'uses' is 7, but it must be text.",
        "step 'f' needs 'aaa', which no step gives.",
        "step 'f' needs 'bb', which no step gives.",
        "step 'g' has both a function (uses) and a command (run).",
        "step 'h': '${{ steps.b' is not closed",
        "step 'h': key 'needs' is 5, but it must be a list.",
        "step 'i': key 'uses' is 'json.dumps', but it must be 'module:function'.",
    ):
        assert any(said in fault for fault in faults), (said, faults)
    assert not any("is missing" in fault for fault in faults), faults
    assert not any("'e' has neither" in fault or "'f' has neither" in fault for fault in faults)


def test_all_bad_references_and_needs_of_a_step_are_told_at_once() -> None:
    faults = faults_of("""
steps:
  a: {run: "echo ${{ parms.y }} ${{ steps.nope3.output }} ${{ steps.q }}"}
  b:
    uses: builtins:print
    args:
      - ${{ steps.nope1.output }}
      - ${{ params.nope }}
      - ${{ parms.x }} ${{ steps.b }} ${{ steps.nope2.output }} ${{ x
      - ${{ steps.a.output..b }}
    needs: [g, a, 3]
""")

    assert sorted(faults) == [
        "step 'a' reads 'nope3', which no step gives. There are 'a', 'b'.",
        (
            "step 'a': '${{ parms.y }}' begins with neither 'params.' nor 'steps.'. Did you mean"
            " 'params'?"
        ),
        "step 'a': '${{ steps.q }}' names no output. Write '${{ steps.NAME.output }}'.",
        "step 'b' needs 'g', which no step gives. There are 'a', 'b'.",
        "step 'b' reads 'nope1', which no step gives. There are 'a', 'b'.",
        "step 'b' reads 'nope2', which no step gives. There are 'a', 'b'.",
        "step 'b' reads param 'nope', which is not declared. There are none.",
        (
            "step 'b': '${{ parms.x }}' begins with neither 'params.' nor 'steps.'. Did you mean"
            " 'params'?"
        ),
        (
            "step 'b': '${{ steps.a.output..b }}' cannot be read at '..b'. Write '.key', '[0]' or"
            " '[\"key\"]'."
        ),
        "step 'b': '${{ steps.b }}' names no output. Write '${{ steps.NAME.output }}'.",
        "step 'b': '${{ x' is not closed; end it with '}}'.",
        "step 'b': key 'needs'[2] is 3, but it must be text.",
    ]


def test_a_duplicate_name_is_told_with_both_lines() -> None:
    faults = faults_of("steps:\n  a: {run: x}\n  b: {run: x}\n  a: {run: y}\n")
    assert faults == ["line 4: duplicate name 'a' under 'steps'; it stands on line 2 already."]
    _, json_faults = read_json('{"steps": {"a": {"run": "x"}, "a": {"run": "y"}}}', "file")
    assert json_faults == ["duplicate name 'a' in one object."]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps:\n  1: {run: x}", "line 2: key '1' is not text. Write it in quotes: \"1\"."),
        ("steps:\n  true: {run: x}", "line 2: key 'true' is not text."),
        ("steps:\n  [a]: {run: x}", "line 2: key a list or mapping is not text."),
        (
            "steps: {}\nparams: {x: !!timestamp 2024-01-01}",
            "line 2: '2024-01-01' (timestamp) has no JSON form.",
        ),
        ("steps: {}\nparams: {x: !!binary aGk=}", "(binary) has no JSON form"),
        ("steps: {}\nparams: {x: !!set {a, b}}", "set has no JSON form"),
        ("steps: {}\nparams: {x: !!python/object:os.system y}", "has no JSON form"),
        ("steps: {}\nparams: {x: &a [*a]}", "contains itself"),
        ("- a\n- b", "the file is ['a', 'b'], but must be a mapping."),
        ("", "the file is empty."),
        ("params: {}", "the file lacks the key 'steps'."),
        ("steps: [a]", "key 'steps' is ['a'], but it must be a mapping."),
        ("steps: {}\nname: 5", "key 'name' is 5, but it must be text."),
    ],
)
def test_what_json_cannot_hold_is_told(text: str, said: str) -> None:
    faults = faults_of(text)
    assert any(said in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps:\n  a: [1\n", "line 3, column 1"),
        ("steps: {a: b: c}", "line 1, column 13"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("a: *b", "undefined alias"),
        ("a: [${{ params.x }}]", "Inside [ ] and { }, write references in quotes."),
        ("a: \x00", "unacceptable character #x0000"),
    ],
)
def test_text_that_is_no_yaml_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(PipelineInvalid) as caught:
        read_yaml(text, "f.yaml")
    assert "this is not YAML" in str(caught.value)
    assert said in str(caught.value)


def test_text_that_is_no_json_is_told_with_its_place() -> None:
    with pytest.raises(PipelineInvalid, match="line 1, column 8"):
        read_json('{"a": 1', "f.json")


def test_aliases_that_unfold_without_end_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(PipelineInvalid, match="unfold to more than"):
        read_yaml("\n".join(lines), "f.yaml")


def test_merge_keys_and_aliases_are_read() -> None:
    value, faults = read_yaml(
        "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4, a: 9}]}\n", "f"
    )
    assert not faults
    assert (value["y"], value["z"]) == ({"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 4})


# YAML has no surrogate pairs in escapes, and folds lines at more characters than JSON
words = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cn", "Cs", "Zl", "Zp"]), max_size=8)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
        max_leaves=10,
    )
)
def test_json_text_is_read_as_yaml_all_the_same(value: Any) -> None:
    read, faults = read_yaml(json.dumps(value, ensure_ascii=False), "f")
    assert not faults
    assert read == value


names = st.text(alphabet="ab-._[]1", min_size=1, max_size=8).filter(
    lambda name: not step_name_fault(name)
)


@given(st.lists(names, unique=True, max_size=6), st.data())
def test_a_file_and_the_builder_say_the_same(steps: list[str], data: st.DataObject) -> None:
    builder = PipelineBuilder("p", params={"x": 1})
    document: dict[str, Any] = {"name": "p", "params": {"x": 1}, "steps": {}}
    for at, name in enumerate(steps):
        read = data.draw(st.lists(st.sampled_from(steps[:at]), unique=True)) if at else []
        needs = data.draw(st.lists(st.sampled_from(steps[:at]), unique=True)) if at else []
        retries = data.draw(st.integers(0, 3))
        builder.add(
            name, "json:dumps", args=[[OutputRef(up, ("k", 0)) for up in read]],
            kwargs={"indent": ParamRef("x")},
            needs=needs, retries=retries,
        )  # fmt: skip
        document["steps"][name] = {
            "uses": "json:dumps",
            "args": [[f"${{{{ steps.{up}.output.k[0] }}}}" for up in read]],
            "with": {"indent": "${{ params.x }}"},
            "needs": needs,
            "retries": retries,
        }

    # JSON quotes every key: PyYAML would write the name -.1 plain, which YAML 1.2 reads as a
    # number.
    assert build(json.dumps(document)) == builder.build()


def test_the_schema_is_made_from_the_models_that_check() -> None:
    schema = pipeline_file_schema()
    definitions = schema.get("$defs", {})

    def body(part: dict[str, Any]) -> dict[str, Any]:
        return definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    step = body(schema["properties"]["steps"]["additionalProperties"])
    declaration = body(schema["properties"]["params"]["additionalProperties"]["anyOf"][0])
    defaults = body(schema["properties"]["defaults"])
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(PipelineDocument.model_fields)
    assert set(step["properties"]) == {
        field.alias or key for key, field in StepDocument.model_fields.items()
    }
    assert set(step["properties"]) == set(StepOptions.model_fields) | {
        "uses",
        "run",
        "args",
        "with",
        "needs",
    }
    assert set(declaration["properties"]) == set(ParamDocument.model_fields)
    assert step["oneOf"] == [{"required": ["uses"]}, {"required": ["run"]}]
    assert schema["required"] == ["steps"]
    for part in (schema, step, declaration, defaults):
        assert part["additionalProperties"] is False
        assert all("description" in described for described in part["properties"].values())
    assert declaration["properties"]["type"]["anyOf"][0]["enum"] == list(PLAIN_TYPES)
    json.dumps(schema)
