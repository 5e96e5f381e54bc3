"""Whoever writes a name that there is not reads which one is like it, or which ones there are."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import orchestrator
from orchestrator import PipelineBuilder, pipeline
from orchestrator.definition.callables import resolve_function
from orchestrator.definition.document import PipelineFile
from orchestrator.definition.loading import load, parse_params
from orchestrator.errors import FunctionNotFound, PipelineInvalid, SettingsInvalid, names_hint
from orchestrator.settings.sources import load_settings
from orchestrator.wording import punctuated


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["train", "report"], " There are 'train', 'report'."),
        ({"b", "a", "c"}, " There are 'a', 'b', 'c'."),
        (["train"], " There is only 'train'."),
        ([], " There are none."),
        (["zzx", "train"], " Did you mean 'zzx'?"),
    ],
)
def test_a_hint_is_the_nearest_name_or_all_that_there_are(known, hint):
    assert names_hint("zzz", known) == hint


@pytest.mark.parametrize("length", [1, 20, 300])
@pytest.mark.parametrize("count", [2, 50, 100_000])
def test_a_hint_says_of_many_names_the_first_and_how_many_more_there_are(length, count):
    names = [f"{number:0{length}}" for number in range(count)]

    hint = names_hint("zzz", names)

    shown = re.findall(r"'(\d+)'", hint)
    assert shown == names[: len(shown)]
    assert len(shown) >= 1
    assert len(hint) < 340 + length
    more = re.search(r" and ([\d,]+) more\.$", hint)
    assert len(shown) + (int(more[1].replace(",", "")) if more else 0) == count


def work(rate: float = 1.0, *, depth: int = 2) -> None:
    pass


@pipeline
def known_pipeline(known_param: int = 1) -> None:
    pass


def built(**options):
    made = PipelineBuilder("made", params={"known_param": {"known_key": 1}})
    made.add("known_step", work, **options)
    return made.build(pools=["known_pool"])


def read(text):
    return PipelineFile(
        {"params": {"known_param": 1}, "steps": {"known_step": text}}, "made", []
    ).build()


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "known_module.py"
    path.write_text(
        "from orchestrator import PipelineBuilder\n\ndef known_function(): pass\n\n"
        "known_pipeline = PipelineBuilder('p')\nknown_pipeline.add('known_step', known_function)\n"
    )
    return path


REFUSED = {
    "a param": (lambda _: known_pipeline.build({"zz": 1}), "'known_param'"),
    "a param of the command line": (
        lambda _: parse_params(["zz=1"], known_pipeline),
        "'known_param'",
    ),
    "a pool": (lambda _: built(pool="zz"), "'known_pool'"),
    "an upstream": (lambda _: built(needs="zz"), "'known_step'"),
    "an argument": (lambda _: built(kwargs={"zz": 1}), "'rate'"),
    "an option": (lambda _: built(zz=1), "'retries'"),
    "a key of a step": (lambda _: read({"run": "true", "zz": 1}), "'needs'"),
    "a step that is read": (lambda _: read({"run": "echo ${{ steps.zz.output }}"}), "'known_step'"),
    "a param that is read": (lambda _: read({"run": "echo ${{ params.zz }}"}), "'known_param'"),
    "a part of a param": (
        lambda _: read({"run": "echo ${{ params.known_param.zz }}"}),
        "It is of type int",
    ),
    "a pipeline of a module": (lambda path: load(f"{path}:zz"), "'known_pipeline'"),
    "a file": (lambda path: load(str(path.with_name("qqq.py"))), "'known_module.py'"),
    "a module": (lambda _: load("qqq"), "'known_module.py'"),
    "a function": (lambda _: resolve_function("known_module:zz"), "'known_function'"),
    "a setting": (
        lambda path: load_settings(path.parent, {"ORCHESTRATOR_CONFIG": settings_file(path)}),
        "'redis_url'",
    ),
}


def settings_file(path):
    path.with_name("o.toml").write_text("zz = 1\n")
    return str(path.with_name("o.toml"))


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_of_a_name_says_which_ones_there_are(module, what):
    act, named = REFUSED[what]

    with pytest.raises((PipelineInvalid, FunctionNotFound, SettingsInvalid)) as refused:
        act(module)

    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("said", "mark", "ended"),
    [
        ("gone", ".", "gone."), ("gone.", ".", "gone."), ("mounted?", ".", "mounted?"), ("no!", ".",
         "no!"),
        ("more…", ".", "more…"), ("a. B.\n", ".", "a. B."), ("gone", ";", "gone;"), ("gone.", ";",
         "gone;"),
        (ValueError("gone."), ".", "gone."),
    ],
)  # fmt: skip
def test_what_others_say_is_ended_once(said, mark, ended):
    assert punctuated(said, mark) == ended


OF_OTHERS = {
    "error",
    "reason",
    "reasons",
    "fault",
    "why",
    "msg",
    "message",
    "strerror",
    "cancel_reason",
    "problem",
}


def test_what_others_say_is_never_followed_by_a_mark_of_ours():
    """A mark of ours behind a text of others would put two marks in a row: `punctuated` knows."""
    found = []
    for path in sorted(Path(orchestrator.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else ()
            for part, following in pairwise(parts):
                if isinstance(part, ast.FormattedValue) and isinstance(following, ast.Constant):
                    name = ast.unparse(part.value).rpartition(".")[2]
                    if (
                        name in OF_OTHERS
                        and part.conversion == -1
                        and str(following.value)[:1] in ".;!?"
                    ):
                        found.append(
                            f"{path.name}:{part.lineno}: {ast.unparse(part.value)}{following.value}"
                        )

    assert found == []
