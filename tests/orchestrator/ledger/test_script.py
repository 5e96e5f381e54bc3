"""What the ledger's Lua says about itself is true: its keys, its words, and that nothing is too
large for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from orchestrator.alerts import delivery
from orchestrator.attempt_id import AttemptId
from orchestrator.definition.options import StepOptions
from orchestrator.definition.pipeline import (
    FunctionCall,
    OutputRef,
    ParamRef,
    Pipeline,
    Step,
    TriggerRule,
)
from orchestrator.ledger.events import REPAIRS, REPLACEMENTS, EventKind
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.presence import (
    CoordinatorCard,
    WorkerCard,
    announce_coordinator,
    announce_worker,
)
from orchestrator.ledger.script import SCRIPT
from orchestrator.ledger.states import (
    SILENT_TRANSITIONS,
    STEP_TRANSITIONS,
    Outcome,
    RunState,
    StepState,
)
from orchestrator.ledger.values import Claim, Reused
from orchestrator.plan.compile import compile_pipeline
from tests.support.runs import (
    INSTANT_S,
    begin,
    run_state,
    start,
    start_graph,
)
from tests.support.script import CODE, HEAD, keys_and_types

RUN_KEYS = dict(
    re.findall(r"^-- +\{prefix\}:\{RUN\}:(\S+) +(hash|zset|set|stream|list|string) ", HEAD, re.M)
)


STAGED_KEY = "<part>~<stage_id>"  # there only while a submit or a resume is being prepared
# these only while the run is being deleted, and while there is more than a page to do
PASSING = {STAGED_KEY, "deleted", "front"}


WHILE_CANCELLING = {"cancel_final", "cancel_from"}
IN_PAGES = {"front_at"}  # only while there is more than a page to do
UNTIL_ITS_END = {"said"}


SERVER_KEYS = dict(re.findall(r"^-- +\{prefix\}:(\w+) +(hash|zset|set|stream|list) ", HEAD, re.M))


def full_run(ledger: Ledger) -> str:
    """Return a run that uses everything a run can use: resumed with another param; one attempt
    lost, one retry due, one step queued."""
    options = StepOptions(retries=1)
    steps = [
        Step("a", FunctionCall("m:f", (ParamRef("x"),)), (), options),
        Step("b", FunctionCall("m:f", (OutputRef("a"),)), ("a",), options),
        Step("c", FunctionCall("m:f", (OutputRef("a"),)), ("a",), options),
        Step("d", FunctionCall("m:f", (OutputRef("b"), OutputRef("c"))), ("b", "c"), options),
        Step("e", FunctionCall("m:f"), (), StepOptions(pool="gpu", priority=4)),
        Step("f", FunctionCall("m:f")),
    ]
    plan = compile_pipeline(Pipeline("p", {step.name: step for step in steps}, {"x": 1}))
    secrets = {"secrets": '["s"]', "secret_values": '{"s":"sesame"}'}
    fields = {
        "target": "p.py",
        "code": "{}",
        "alerts": "[]",
        "deadline_s": 3600,
        "rerun_of": "o",
        "reuses": '["o"]',
        "labels": "{}",
    }
    fields |= secrets
    taken_over = {"f": Reused("o", 1)}
    run_id, _ = start(ledger, plan, params='{"x":1}', fields=fields, reused=taken_over)
    token = begin(ledger, run_id, "a")
    ledger.append_log(AttemptId(run_id, "a", 1), token, ["line", "line"], 1)
    ledger.commit(AttemptId(run_id, "a", 1), token, "w", Outcome.SUCCEEDED, output="[1]")
    ledger.commit(
        AttemptId(run_id, "b", 1), begin(ledger, run_id, "b"), "w", Outcome.SUCCEEDED, output="2"
    )
    ledger.lend(run_id, "taker")
    begin(ledger, run_id, "c")
    ledger.report_lost(AttemptId(run_id, "c", 1), {}, owner="w")
    ledger.cancel(run_id, "enough")
    ledger.resume(
        run_id,
        [("c", 1), ("d", 1), ("e", 0)],
        fields={"params": '{"x":2}', "deadline_s": 3600} | secrets,
    )
    ledger.commit(
        AttemptId(run_id, "c", 3),
        begin(ledger, run_id, "c", 3),
        "w",
        Outcome.FAILED,
        retry_in_s=0.0,
    )
    return run_id


def test_the_keys_of_a_run_are_those_at_the_head_of_the_script(ledger: Ledger) -> None:
    run_id = full_run(ledger)
    announce_coordinator(ledger.client, ledger.prefix, CoordinatorCard("c", "host", 1, "3.11"))
    announce_worker(
        ledger.client, ledger.prefix, WorkerCard("w", ("cpu",), 1, "prefork", "host", 1, "beef")
    )

    beside = SERVER_KEYS | {"worker:w": "string", "coordinator:c": "string"}
    del beside["deleting"]  # while a deletion goes on
    of_run = {
        f"{{{run_id}}}:{part}": kind for part, kind in RUN_KEYS.items() if part not in PASSING
    }
    of_run[f"{{{run_id}}}:log:a:1"] = of_run.pop(f"{{{run_id}}}:log:<step>:<attempt>")
    of_run[f"{{{run_id}}}:queued:cuda:3"] = of_run.pop(f"{{{run_id}}}:queued:<queue>:<level>")
    assert {
        key: kind for key, kind in keys_and_types(ledger).items() if not key.startswith("nudge:")
    } == of_run | beside

    # Once the run has ended nothing is due, and nothing queued.
    ledger.advance_due(run_id)
    for step, attempt in (("c", 4), ("d", 1), ("e", 2)):
        ledger.commit(
            AttemptId(run_id, step, attempt),
            begin(ledger, run_id, step, attempt),
            "w",
            Outcome.SUCCEEDED,
        )
    assert run_state(ledger, run_id) == "succeeded"
    del (
        of_run[f"{{{run_id}}}:secret"],
        of_run[f"{{{run_id}}}:due"],
        of_run[f"{{{run_id}}}:queued:cuda:3"],
    )
    assert keys_and_types(ledger) == of_run | beside


def test_what_a_resume_stages_goes_by_itself_when_the_resume_never_comes(ledger: Ledger) -> None:
    run_id = full_run(ledger)
    before = keys_and_types(ledger)
    for _ in range(2):
        ledger._call(
            run_id, "stage", "r1", "a", '{"x":0,"q":"cpu","p":5}', '["b"]', '["b"]', "{}", "", ""
        )

    staged = {key: kind for key, kind in keys_and_types(ledger).items() if key not in before}
    assert staged == {
        f"{{{run_id}}}:{part}~r1": RUN_KEYS[STAGED_KEY]
        for part in ("graph", "children", "inputs", "spec")
    }
    assert all(0 < ledger.client.ttl(f"{ledger.prefix}:{key}") <= 3600 for key in staged)


def test_a_nudge_goes_by_itself_when_the_worker_never_comes(ledger: Ledger) -> None:
    run_id = full_run(ledger)
    ledger.advance_due(run_id)
    begin(ledger, run_id, "c", 4, worker="w2")

    ledger.cancel(run_id, "enough")

    assert "{prefix}:nudge:<name> a list" in HEAD
    assert keys_and_types(ledger)["nudge:w2"] == "list"
    assert 0 < ledger.client.ttl(ledger.nudge_key("w2")) <= 10


def test_the_fields_of_a_run_are_those_at_the_head_of_the_script(ledger: Ledger) -> None:
    run_id = full_run(ledger)
    ledger.cancel(run_id, "enough")
    ledger.client.set(f"{ledger.prefix}:clock", "[[1, 3600000000, 0]]")
    fields = {"deadline_s": INSTANT_S, "limits": 1, "secrets": '["s"]'}
    ledger.resume(run_id, [("c", 1), ("d", 1), ("e", 0)], fields=fields)
    ledger.advance_due(run_id)
    alert_try = ledger.claim_alert(run_id, 60)
    ledger.report_alert(run_id, alert_try, [], retry_in_s=60)
    listed = re.search(r":run +hash +(.*?)\n-- +\{prefix\}", HEAD, re.S)
    text = re.sub(r"\(.*?\)", "", re.sub(r"\s*\n--\s*", " ", listed.group(1)))
    named = {word.strip() for word in text.split(",")}

    fields = ledger.run_fields(run_id)

    assert {
        re.sub(r"^n:.*", "n:<state>", name) for name in fields
    } == named - WHILE_CANCELLING - IN_PAGES - UNTIL_ITS_END


def test_every_key_of_a_run_carries_its_hash_tag(ledger: Ledger) -> None:
    run_id = full_run(ledger)

    of_run = [f"{ledger.prefix}:{key}" for key in keys_and_types(ledger) if run_id in key]

    assert len(of_run) == len(RUN_KEYS) - len(PASSING)  # they have the same beginning
    assert {key_slot(key.encode()) for key in of_run} == {key_slot(run_id.encode())}


def test_a_claim_brings_params_and_outputs_to_those_who_read_them(ledger: Ledger) -> None:
    run_id = full_run(ledger)
    ledger.advance_due(run_id)

    claim = ledger.claim(AttemptId(run_id, "c", 4), "c", "w")
    assert isinstance(claim, Claim)
    assert (claim.params_wire, claim.outputs, claim.uncounted) == ({}, {"a": "[1]"}, 2)
    assert claim.spec.args == [{"$output": ["a"]}]
    assert claim.spec.options == {"retries": 1}
    ledger.commit(AttemptId(run_id, "c", 4), claim.token, "w", Outcome.SUCCEEDED, output="null")

    claim = ledger.claim(AttemptId(run_id, "d", 1), "d", "w")
    assert isinstance(claim, Claim)
    assert claim.outputs == {"b": "2", "c": ""}
    assert (claim.pipeline, claim.import_path) == ("p", "")


def test_a_claim_brings_the_params_when_they_are_read(ledger: Ledger) -> None:
    step = Step("a", FunctionCall("m:f", (ParamRef("x"),)))
    run_id, _ = start(ledger, compile_pipeline(Pipeline("p", {"a": step})), params='{"x":"ü"}')

    claim = ledger.claim(AttemptId(run_id, "a", 1), "c", "w")

    assert isinstance(claim, Claim)
    assert claim.params_wire == {"x": "ü"}


def test_lua_and_python_know_the_same_states_and_changes() -> None:
    table = re.search(r"local TRANSITIONS = \{\n(.*?)\n\}", CODE, re.S).group(1)
    in_lua = {
        StepState(source): {StepState(target) for target in re.findall(r"(\w+) = 1", targets)}
        for source, targets in re.findall(r"(\w+) = \{(.*?)\}", table)
    }
    assert in_lua == {
        state: STEP_TRANSITIONS[state] | SILENT_TRANSITIONS.get(state, frozenset())
        for state in StepState
    }

    ended = re.search(r"local ENDED = \{(.*?)\}", CODE, re.S).group(1)
    assert set(re.findall(r"(\w+) = true", ended)) == {
        state.value for state in StepState if state.is_ended
    }
    assert {state.value for state in RunState if state.is_ended} <= set(re.findall(r"\w+", ended))


def test_the_state_of_a_step_is_written_at_one_place_that_checks_the_change() -> None:
    assert re.findall(r"'HSET', STATE", CODE) == ["'HSET', STATE"]
    callers = {function for function, body in _functions() if re.search(r"\bset\(", body)}
    assert callers == {"write", "reset", "end_stopping"}  # the last one keeps the state


@pytest.mark.parametrize("source", StepState)
def test_a_change_that_is_not_in_the_table_is_refused_and_changes_nothing(
    ledger: Ledger, source: StepState
) -> None:
    """Whatever state a step is put into by force: what may not follow on it does not."""
    for target in (
        set(StepState) - STEP_TRANSITIONS[source] - SILENT_TRANSITIONS.get(source, frozenset())
    ):
        run_id = start_graph(ledger, {"a": "", "b": "a"})
        key = ledger.key(run_id, "state")
        before = f"{source} 1 0 1 -"
        ledger.client.hset(key, "a", before)
        script = f"{CHANGE}enter(KEYS, ARGV) write('a', '{source}', '{target}', 1, 0, '-')"
        with pytest.raises(
            redis.ResponseError, match=f"step a cannot become {target}, it is {source}"
        ):
            ledger.client.eval(script, 1, ledger.key(run_id, "run"))
        assert ledger.client.hget(key, "a") == before


CHANGE = SCRIPT[: SCRIPT.rindex("\nenter(KEYS")] + "\n"


def _functions() -> list[tuple[str, str]]:
    """Name and text of each function at the top of a file."""
    return re.findall(r"^(?:local )?function ([\w.]+)\((.*?)^end", CODE, re.S | re.M)


def test_every_state_rule_and_outcome_in_the_code_is_a_word_that_python_knows() -> None:
    states = {state.value for state in StepState} | {state.value for state in RunState}
    for pattern, words in (
        (r"\b(?:run_|child_)?state [~=]= '(\w+)'", states),
        (r"\bwrite\(.*?, '(\w+)', (?:attempt|0)", states),
        (r"\bverdict == '(\w+)'", states),
        (r"\brule == '(\w+)'", {rule.value for rule in TriggerRule}),
        (r"\.t == '(\w+)'", {rule.value for rule in TriggerRule}),
        (r"\boutcome [~=]= '(\w+)'", {outcome.value for outcome in Outcome}),
        (r"'HSET', RUN, 'state', '(\w+)'", {state.value for state in RunState}),
        (r"emit\('(\w+\.\w+)'", set(EventKind)),
    ):
        found = set(re.findall(pattern, CODE))
        assert found, f"{pattern} finds nothing: it no longer fits the code"
        assert found <= words, pattern


def test_every_event_is_written_somewhere() -> None:
    written = {*re.findall(r"emit\('(\w+\.\w+)'", CODE)}
    # emit('step.' .. verdict, …)
    of_steps = {f"step.{verdict}" for verdict in ("upstream_failed", "skipped")}
    of_runs = {f"run.{state}" for state in RunState if state.is_ended}  # emit('run.' .. final, …)
    by_python = set(re.findall(r"EventKind\.(ALERT_\w+)", Path(delivery.__file__).read_text()))

    assert written | of_steps | of_runs | {EventKind[name] for name in by_python} == set(
        EventKind
    ) - {"unreadable"}


def test_attempts_that_may_be_lost_are_as_many_as_the_options_say() -> None:
    assert re.search(r"local LOST_ATTEMPTS = (\d+) ", CODE).group(1) == str(
        StepOptions().lost_attempts
    )
    words = " ".join(HEAD.replace("\n--", " ").split())
    assert f"lost attempts that it may have (absent = {StepOptions().lost_attempts})" in words


def test_a_repair_is_an_event_that_the_script_writes() -> None:
    assert set(re.findall(r"emit\('(\w+\.\w+)'", CODE)) >= REPAIRS
    assert {
        f"attempt.{outcome}" for outcome in (Outcome.LOST, Outcome.HANDED_OVER, Outcome.PUT_BACK)
    } == REPLACEMENTS


def test_every_state_is_reached_by_name_in_the_code() -> None:
    quoted = set(re.findall(r"'(?:step\.)?(\w+)'", CODE))

    assert {state.value for state in StepState} <= quoted
    assert {state.value for state in RunState} <= quoted


def test_every_rule_but_the_default_is_judged_as_its_model_judges_it() -> None:
    # all_done and always are what is left when no other rule applies.
    assert set(re.findall(r"rule == '(\w+)'", CODE)) == {rule.value for rule in TriggerRule} - {
        "all_done",
        "always",
    }
