"""The values of secret params are in the ledger while a run goes on, for those who claim, and no
longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import Outcome
from orchestrator.ledger.values import Claim, RunExists
from tests.support.runs import INSTANT_S, SaidTwice, begin, graph, run_state, start

SECRETS = {"secrets": '["token"]', "secret_values": '{"token": "sesame"}'}


def key_of(ledger: Ledger, run_id: str) -> str:
    return ledger.key(run_id, "secret")


def started(ledger: Ledger, **fields: str | int) -> str:
    return start(ledger, graph({"a": "", "b": "a"}).plan(), fields=SECRETS | fields)[0]


def claimed(ledger: Ledger, run_id: str, step: str, attempt: int = 1) -> Claim:
    claim = ledger.claim(AttemptId(run_id, step, attempt), f"{step}{attempt}", "w")
    assert isinstance(claim, Claim)
    return claim


def test_every_claim_brings_the_secrets_after_retries_and_lost_attempts_too(ledger: Ledger) -> None:
    run_id = started(SaidTwice(ledger.client, ledger.prefix))
    claim = claimed(ledger, run_id, "a")
    ledger.commit(AttemptId(run_id, "a", 1), claim.token, "w", Outcome.FAILED, retry_in_s=0.0)
    ledger.advance_due(run_id)
    second = claimed(ledger, run_id, "a", 2)
    ledger.report_lost(AttemptId(run_id, "a", 2), {}, token=second.token)
    third = claimed(ledger, run_id, "a", 3)
    ledger.commit(AttemptId(run_id, "a", 3), third.token, "w", Outcome.SUCCEEDED)

    assert [it.secrets for it in (claim, second, third, claimed(ledger, run_id, "b"))] == [
        {"token": "sesame"}
    ] * 4
    assert "sesame" not in repr(claim)
    assert ledger.secrets(run_id) == {"token": "sesame"}


def succeed(ledger: Ledger, run_id: str) -> None:
    for step in "ab":
        ledger.commit(
            AttemptId(run_id, step, 1), begin(ledger, run_id, step), "w", Outcome.SUCCEEDED
        )


def fail(ledger: Ledger, run_id: str) -> None:
    ledger.commit(AttemptId(run_id, "a", 1), begin(ledger, run_id, "a"), "w", Outcome.FAILED)


def lose(ledger: Ledger, run_id: str) -> None:
    for attempt in (1, 2, 3):
        ledger.report_lost(
            AttemptId(run_id, "a", attempt), {}, token=begin(ledger, run_id, "a", attempt)
        )


def cancel(ledger: Ledger, run_id: str) -> None:
    begin(ledger, run_id, "a")
    ledger.cancel(run_id, "enough")


def cancel_steps(ledger: Ledger, run_id: str) -> None:
    ledger.cancel_steps(run_id, ["a", "b"], "enough")


def miss_the_deadline(ledger: Ledger, run_id: str) -> None:
    begin(ledger, run_id, "a")
    ledger.advance_due(run_id)


@pytest.mark.parametrize("end", [succeed, fail, lose, cancel, cancel_steps, miss_the_deadline])
def test_every_end_of_a_run_deletes_them(
    ledger: Ledger, end: Callable[[Ledger, str], None]
) -> None:
    run_id = started(ledger, **({"deadline_s": INSTANT_S} if end is miss_the_deadline else {}))
    assert ledger.client.exists(key_of(ledger, run_id))

    end(ledger, run_id)

    assert run_state(ledger, run_id) in ("succeeded", "failed", "cancelled")
    assert not ledger.client.exists(key_of(ledger, run_id))
    assert ledger.secrets(run_id) is None


def test_a_resume_brings_them_anew_and_its_end_deletes_them_again(ledger: Ledger) -> None:
    run_id = started(ledger)
    fail(ledger, run_id)

    fields = SECRETS | {"params": "{}", "secret_values": '{"token": "other"}'}
    ledger.resume(run_id, [("a", 0), ("b", 0)], fields=fields)

    assert claimed(ledger, run_id, "a", 2).secrets == {"token": "other"}
    ledger.cancel(run_id, "enough")
    assert not ledger.client.exists(key_of(ledger, run_id))
    ledger.advance_due(run_id)
    ledger.report_lost(AttemptId(run_id, "a", 2), {}, owner="w")
    ledger.resume(run_id, [("a", 0), ("b", 0)], fields={"params": "{}"})
    assert claimed(ledger, run_id, "a", 3).secrets == {}  # the pipeline has none any more


def test_a_run_whose_secrets_the_server_has_lost_says_so_to_those_who_claim(ledger: Ledger) -> None:
    run_id = started(ledger)
    ledger.client.delete(key_of(ledger, run_id))

    assert claimed(ledger, run_id, "a").secrets is None


def test_who_is_refused_leaves_no_secrets(ledger: Ledger) -> None:
    run_id = started(ledger)

    with pytest.raises(RunExists):
        start(
            ledger,
            graph({"a": ""}).plan(),
            run_id=run_id,
            fields=SECRETS | {"secret_values": '{"token": "other"}'},
        )

    assert ledger.secrets(run_id) == {"token": "sesame"}


def test_a_run_without_secrets_pays_nothing(ledger: Ledger) -> None:
    run_id, _ = start(ledger, graph({"a": ""}).plan())

    assert claimed(ledger, run_id, "a").secrets == {}
    assert not ledger.client.exists(key_of(ledger, run_id))
    assert "secrets" not in ledger.run_fields(run_id)
