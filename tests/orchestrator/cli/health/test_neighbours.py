"""What `doctor` says of messages that are not ours."""

from __future__ import annotations

from orchestrator.cli.health.neighbours import check_set_aside
from orchestrator.installation import Installation
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.set_aside import dead_key, foreign_key, keep_foreign, put_aside
from orchestrator.settings.model import Settings
from orchestrator.settings.pools import PoolSettings


def session_of(ledger: Ledger, **changes: str) -> Installation:
    chosen = Settings(pools={"cpu": PoolSettings(queue="pinned"), "gpu": PoolSettings()}, **changes)
    return Installation(chosen, "redis://nowhere", ledger, is_embedded=False)


def test_nothing_is_said_where_nothing_was_set_aside(ledger: Ledger) -> None:
    assert list(check_set_aside(session_of(ledger))) == []


def test_foreign_messages_are_counted_and_the_command_that_returns_them_is_given(
    ledger: Ledger,
) -> None:
    for _ in range(2):
        for number in range(3):
            keep_foreign(
                ledger.client, ledger.prefix, "pinned", f"{ledger.prefix}-list", b"%d" % number
            )

    (finding,) = check_set_aside(session_of(ledger, broker_key_prefix="team."))

    assert (finding.level, finding.what) == ("warning", "queue pinned")
    assert "3 messages of another application" in finding.found
    assert finding.found.endswith(f"2 {foreign_key(ledger.prefix, 'pinned')} team.pinned")


def test_dead_entries_are_counted_and_their_list_is_named(ledger: Ledger) -> None:
    put_aside(
        ledger.client, ledger.prefix, "some.queue", b"42", "it is a JSON int, not a message", 1.0
    )

    (finding,) = check_set_aside(session_of(ledger))

    assert (finding.level, finding.what) == ("warning", "queue some.queue")
    assert dead_key(ledger.prefix, "some.queue") in finding.found
    assert "it is a JSON int, not a message" in finding.found
