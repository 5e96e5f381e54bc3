"""Which errors of a server say that it refuses for the time being, however they are wrapped."""

from __future__ import annotations

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from orchestrator.refusals import (
    REFUSALS,
    SCRIPT_KILLED,
    TOO_MANY_CLIENTS,
    ServerRefuses,
    refusal_in,
)

WRAPPINGS = {
    "plain": "{code} for a reason",
    "in a script, Redis 7": "{code} for a reason script: 2f0e, on @user_script:1.",
    "in a script, Redis 6": (
        "ERR Error running script (call to f_2f): @user_script:1: @user_script: 1: -{code} for it"
    ),
    "in a transaction": "EXECABORT Transaction discarded because of: {code} for a reason",
}


def as_received(text: str) -> Exception:
    return BaseParser.parse_error(text)


@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_is_known_by_its_code_wherever_it_stands(code, wrapping):
    assert refusal_in(as_received(wrapping.format(code=code))) == REFUSALS[code]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("ERR max number of clients reached", TOO_MANY_CLIENTS),
        ("ERR max number of clients + cluster connections reached", TOO_MANY_CLIENTS),
        (
            "ERR Error running script: @user_script:1: Script killed by user with SCRIPT KILL.",
            SCRIPT_KILLED,
        ),
        (
            "ERR Script killed by user with FUNCTION KILL. script: f, on @user_function:1.",
            SCRIPT_KILLED,
        ),
    ],
)
def test_a_refusal_without_a_code_is_known_by_its_words(text, meaning):
    assert refusal_in(as_received(text)) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "NOPERM User 'x' has no permissions to run the 'fcall' command",
        "BUSYGROUP Consumer Group name already exists",
        "BUSYKEY Target key name already exists.",
        "NOTBUSY No scripts in execution right now.",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "NOSCRIPT No matching script.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "MOVED 3999 127.0.0.1:6381",
        "ERR unknown command 'FCALL'",
        "ERR Function not found",
        "EXECABORT Transaction discarded because of previous errors.",
        "UNKNOWN step -OOM of ours",
        "OOMPH is not a code",
    ],
)
def test_what_no_waiting_mends_is_no_refusal(text):
    assert refusal_in(as_received(text)) is None


def test_a_refusal_counts_as_an_outage_for_all_who_can_bear_one():
    assert issubclass(ServerRefuses, exceptions.ConnectionError)
    assert not issubclass(ServerRefuses, exceptions.ResponseError)
