"""A run says in which format it is written, and nobody goes on with one of a format that they do
not know."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import FormatUnknown
from orchestrator.ledger.entries import FORMAT, json_text, parsed_json
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.script import SCRIPT
from orchestrator.ledger.staging import staged_steps
from orchestrator.ledger.values import Refusal
from orchestrator.record.run import read_record
from tests.support.runs import SETTINGS, begin, graph, start_graph

NEWER = str(FORMAT + 1)


def write_format(ledger: Ledger, run_id: str, v: str | None) -> None:
    """Write another version's format, or none as version 0.1.0 did."""
    if v is None:
        ledger.client.hdel(ledger.key(run_id, "run"), "v")
    else:
        ledger.client.hset(ledger.key(run_id, "run"), "v", v)


def test_the_script_knows_the_same_format_as_python() -> None:
    assert re.search(r"local FORMAT = (\d+) ", SCRIPT).group(1) == str(FORMAT)


def test_a_run_that_is_started_says_its_format(ledger: Ledger) -> None:
    assert ledger.run_fields(start_graph(ledger, {"a": ""}))["v"] == str(FORMAT)


@pytest.mark.parametrize("act", ["show", "cancel", "cancel_steps", "advance_due", "resume"])
def test_a_run_of_a_newer_version_is_refused_in_one_sentence(ledger: Ledger, act: str) -> None:
    run_id = start_graph(ledger, {"a": ""})
    write_format(ledger, run_id, NEWER)
    acts = {
        "show": lambda: read_record(ledger, run_id),
        "cancel": lambda: ledger.cancel(run_id, "why"),
        "cancel_steps": lambda: ledger.cancel_steps(run_id, ["a"], "why"),
        "advance_due": lambda: ledger.advance_due(run_id),
        "resume": lambda: ledger.resume(run_id, [("a", 0)]),
    }

    with pytest.raises(
        FormatUnknown,
        match=f"is written in format {NEWER}, by a newer version; this one knows {FORMAT}",
    ):
        acts[act]()


@pytest.mark.parametrize("v", [NEWER, None])
def test_no_step_of_a_run_of_another_format_begins(ledger: Ledger, v: str | None) -> None:
    run_id = start_graph(ledger, {"a": ""})
    write_format(ledger, run_id, v)

    assert isinstance(ledger.claim(AttemptId(run_id, "a", 1), "i.7.x", "w"), Refusal)


def test_a_run_that_an_older_version_has_not_ended_can_be_read_and_cancelled_and_then_resumed(
    ledger: Ledger,
) -> None:
    run_id = start_graph(ledger, {"a": ""})
    write_format(ledger, run_id, None)

    with pytest.raises(FormatUnknown, match="was begun by an older version"):
        ledger.advance_due(run_id)
    with pytest.raises(FormatUnknown):
        ledger.cancel_steps(run_id, ["a"], "why")
    assert read_record(ledger, run_id).state == "queued"

    assert ledger.cancel(run_id, "why") == 1
    with pytest.raises(FormatUnknown):
        ledger.resume(run_id, [("a", 0)])  # as the older version wrote it
    ledger.resume(run_id, [("a", 0)], staged=list(staged_steps(graph({"a": ""}).plan(), SETTINGS)))
    assert ledger.advance_due(run_id).state == "queued"
    assert begin(ledger, run_id, "a", 2)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    )
)
def test_json_of_the_ledger_is_read_as_the_standard_library_reads_it(value: object) -> None:
    for text in (json_text(value), json.dumps(value)):
        assert repr(parsed_json(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["", "{", "nul", '{"a": 1} b'])
def test_what_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parsed_json(text)


def test_json_that_is_nested_deeper_than_a_parser_likes_is_read() -> None:
    text = "[" * 400 + "]" * 400
    assert parsed_json(text) == json.loads(text)
