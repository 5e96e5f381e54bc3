"""Params that are declared secret: how they are declared, given, handed to steps, and never
shown."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Annotated, Any

import pytest

from orchestrator import Pipeline, PipelineBuilder, PipelineInvalid, Secret, pipeline, step
from orchestrator.artifacts.outputs import decode_output, encode_output
from orchestrator.artifacts.plain import shown_output
from orchestrator.definition.document import PipelineFile
from orchestrator.definition.loading import parse_params
from orchestrator.definition.params import Param, secrets_in
from orchestrator.definition.pipeline import ParamRef
from orchestrator.ledger.staging import staged_steps
from orchestrator.plan.compile import compile_pipeline
from orchestrator.runs.submission import run_fields
from orchestrator.settings.model import Settings

SESAME = "open sesame"


@step
def take(*args: Any, **kwargs: Any) -> None: ...


def faults_of(definition: Any, **params: Any) -> str:
    with pytest.raises(PipelineInvalid) as caught:
        definition.build(params)
    return "\n".join(caught.value.faults)


def python(token: Any = Secret[str], *, has_default: bool = False) -> Any:
    def written(x, rows=1):
        take(x, auth=[{"by": x}], rows=rows)

    written.__annotations__ = {"x": token, "rows": int}
    if has_default:
        written.__defaults__ = (None, 1)
    return pipeline(written)


def builder() -> PipelineBuilder:
    made = PipelineBuilder("p", params={"x": Param("x", Secret[str]), "rows": 1})
    made.add("take", take, args=[ParamRef("x")])
    return made


def yaml() -> PipelineFile:
    steps = {"take": {"run": "echo ${{ params.x }}"}}
    return PipelineFile({"params": {"x": {"secret": True}, "rows": 1}, "steps": steps}, "p")


ALL = [python(), python(Annotated[Secret[str], "the token"]), python(Secret), builder(), yaml()]


@pytest.mark.parametrize("definition", ALL)
@pytest.mark.parametrize("is_text", [False, True])
def test_a_secret_is_nowhere_but_where_the_ledger_keeps_secrets(
    definition: Any, is_text: bool
) -> None:
    given = parse_params([f"x={SESAME}"], definition) if is_text else {"x": SESAME}
    built: Pipeline = definition.build(given)
    plan, settings = compile_pipeline(built), Settings()

    fields = run_fields(plan, settings, "r", "")
    values = fields.pop("secret_values")

    assert secrets_in(built.params) == {"x": SESAME}
    assert json.loads(str(values)) == {"x": SESAME}
    assert json.loads(str(fields["params"])) == {"x": "***", "rows": 1}
    assert fields["secrets"] == '["x"]'
    assert all(
        SESAME not in str(part)
        for part in (fields, list(staged_steps(plan, settings)), built, repr(built), plan)
    )
    assert '{"$param":["x"]}' in next(iter(staged_steps(plan, settings))).spec


@pytest.mark.parametrize("definition", ALL)
def test_a_secret_that_is_missing_says_how_it_is_given(definition: Any) -> None:
    told = faults_of(definition)

    assert "param 'x' is a secret and missing" in told
    assert "-p x=@FILE" in told
    assert "-p x=@-" in told


@pytest.mark.parametrize("definition", ALL)
@pytest.mark.parametrize("value", [5, b"open sesame", ["open sesame"], {"a": "open sesame"}])
def test_a_secret_that_is_no_text_is_refused_without_being_shown(
    definition: Any, value: Any
) -> None:
    told = faults_of(definition, x=value)

    assert told == f"param 'x' is a secret, and must be text, not {type(value).__name__}."


def test_text_that_looks_like_something_else_is_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"from a file\r\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n\n"))

    for text, value in (
        ("5", "5"),
        ("null", "null"),
        ("", ""),
        (f"@{file}", "from a file"),
        ("@-", "from a pipe\n"),
        ("@@home", "@home"),
        ("a@b", "a@b"),
    ):
        assert secrets_in(parse_params([f"x={text}"], python())) == {"x": value}, text


@pytest.mark.parametrize(
    ("content", "told"), [(None, "No such file"), (b"\xff\xfe", "it is not UTF-8 text")]
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    if content:
        (tmp_path / "token").write_bytes(content)

    with pytest.raises(
        PipelineInvalid, match=f"param 'x': the file '.*token' cannot be read: {told}"
    ):
        parse_params([f"x=@{tmp_path / 'token'}"], python())


def test_an_optional_secret_may_be_left_out_and_is_none_then() -> None:
    for kind in (Secret[str] | None, Annotated[Secret[str] | None, "the token"]):
        built = python(kind, has_default=True).build({})
        assert built.params == {"x": None, "rows": 1}
        assert secrets_in(built.params) == {}
        assert secrets_in(python(kind, has_default=True).build({"x": SESAME}).params) == {
            "x": SESAME
        }


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"x": Param("x", Secret[int])}, "is a secret, which is text: write Secret[str]"),
        ({"x": Param("x", Secret[str] | int)}, "is a secret, which is text: write Secret[str]"),
        (
            {"x": Param("x", Secret[str], "in the code")},
            "None is its only possible default: code keeps no secrets",
        ),
        ({"x": Param("x", Secret[str], None)}, "None is its only possible default"),
        (
            {"x": Param("x", Secret[str], choices=("open sesame", "b"))},
            "is a secret, and so has no choices",
        ),
    ],
)
def test_what_cannot_be_a_secret_is_a_fault(declared: dict[str, Param], told: str) -> None:
    assert told in faults_of(PipelineBuilder("p", params=declared), x=SESAME)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"secret": True, "type": "int"}, "is a secret, which is text"),
        ({"secret": True, "default": "in the file"}, "code keeps no secrets"),
        ({"secret": True, "choices": ["a"]}, "has no choices"),
        ({"secret": "yes"}, "'secret' is 'yes'"),
    ],
)
def test_what_cannot_be_a_secret_in_a_file_is_a_fault(declared: dict[str, Any], told: str) -> None:
    assert told in faults_of(PipelineFile({"params": {"x": declared}, "steps": {}}, "p"))


MISUSES: list[Any] = [
    lambda x: f"Bearer {x}",
    lambda x: str(x),
    lambda x: x + "a",
    lambda x: x == "open sesame",
    lambda x: bool(x),
    lambda x: len(x),
    lambda x: x[0],
    lambda x: list(x),
    lambda x: "a" in x,
]


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_pipeline_may_hand_a_secret_to_steps_and_do_nothing_else_with_it(misuse: Any) -> None:
    def churn(x: Secret[str]) -> None:
        misuse(x)

    churn.__annotations__ = {"x": Secret[str]}
    told = faults_of(pipeline(churn), x=SESAME)

    assert "param 'x' is a secret, known to steps only: it cannot be" in told
    assert SESAME not in told


def test_whether_an_optional_secret_was_given_may_be_asked() -> None:
    def churn(x: Secret[str] | None = None) -> None:
        take() if x is None else take(x)

    churn.__annotations__ = {"x": Secret[str] | None}
    assert pipeline(churn).build({}).steps["take"].call.args == ()  # type: ignore[union-attr]
    assert pipeline(churn).build({"x": SESAME}).steps["take"].call.args == (ParamRef("x"),)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (SESAME, "***"),
        (f"a {SESAME} b {SESAME}", "a *** b ***"),
        ({"k": [SESAME, 1], SESAME: (SESAME,)}, {"k": ["***", 1], "***": ["***"]}),
        ({1: SESAME}, {"1": "***"}),
        (["open", "sesame"], ["open", "sesame"]),
        ('open "quoted\\ sesame', "***"),
    ],
)
def test_an_output_that_holds_a_secret_is_kept_without_it_and_arrives_with_it(
    value: Any, shown: Any
) -> None:
    secrets = {"x": SESAME, "quoted": 'open "quoted\\ sesame'}
    stored: list[Any] = []

    text = encode_output(value, 1000, stored.append, secrets)  # type: ignore[arg-type, return-value]

    assert not stored
    assert all(json.dumps(secret)[1:-1] not in text for secret in secrets.values())
    assert shown_output(text) == shown
    assert decode_output(text, None, lambda name, path: secrets[name]) == value  # type: ignore[arg-type]


def test_values_on_their_way_show_nothing() -> None:
    built = python().build({"x": SESAME})

    assert SESAME not in f"{built.params['x']} {built.params['x']!r} {built.params!r} {built!r}"
    assert pickle.loads(pickle.dumps(built.params["x"])) == built.params["x"]
