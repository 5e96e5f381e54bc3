"""A server that is alive and refuses: the one table of errors after which the same call is made
again.

Such a server is treated as one that is away: it may be well again soon, and the work that waits for
it is done. `RefusalsAreOutages` raises `ServerRefuses`, a ConnectionError, in their place, so that
redis-py's retries, the coordinators' care and Celery's reconnecting all apply to it as they stand.
The ledger's client and the transport of Celery's messages both make their connections of it.

Not in the table are refusals that no waiting mends: NOPERM, WRONGTYPE, MOVED, a server without a
command. A wrong or missing password (WRONGPASS, NOAUTH) is a ConnectionError of redis-py already
and so is waited for: half a rotation of passwords costs no work.
"""

from __future__ import annotations

import re
from typing import Any

from redis import exceptions
from redis.exceptions import ConnectionError, RedisError

REFUSALS = {
    "BUSY": "it is busy with somebody's script",
    "LOADING": "it is loading its data",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "READONLY": "it is a replica, which takes no writes",
    "OOM": "its memory is full",
    "MISCONF": "it cannot save its data",
    "NOREPLICAS": "too few of its replicas are there",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "its cluster is moving keys",
    "UNBLOCKED": "it has become a replica",
}
TOO_MANY_CLIENTS = "it has as many clients as it may"
SCRIPT_KILLED = "somebody ended the call (SCRIPT KILL)"

_SENTENCES = {"max number of clients": TOO_MANY_CLIENTS, "Script killed by user": SCRIPT_KILLED}
# redis-py takes the code off the texts of these.
_CLASSES = {
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.ClusterDownError: "CLUSTERDOWN",  # after MASTERDOWN, which is one
}
_CODES = "|".join(REFUSALS)
_LEADING = re.compile(rf"(?:ERR )?-?({_CODES})\b")
# An error inside of a script (before Redis 7) or of a transaction has the code further behind.
_WRAPPED = re.compile(
    r"(?:ERR )?(?:Error (?:running|compiling) |EXECABORT |Transaction discarded"
    rf" ).*?[\s:]-?({_CODES}) "
)


class ServerRefuses(ConnectionError):
    """The server answers, and refuses what it is asked for the time being."""


def refusal_in(error: BaseException) -> str | None:
    """Return why the server refuses for the time being, in words; None for any other error."""
    if not isinstance(error, RedisError) or isinstance(error, ServerRefuses):
        return None
    for kind, code in _CLASSES.items():
        if isinstance(error, kind):
            return REFUSALS[code]
    text = str(error)
    if found := _LEADING.match(text) or _WRAPPED.match(text):
        return REFUSALS[found[1]]
    return next((meaning for words, meaning in _SENTENCES.items() if words in text[:200]), None)


class RefusalsAreOutages:
    """Goes before a connection class of redis-py. Reads every answer: of commands, pipelines and
    the handshake."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            response = super().read_response(*args, **options)  # type: ignore[misc]
        except RedisError as error:
            if reason := refusal_in(error):
                raise ServerRefuses(f"{reason}: {error}") from error
            raise
        if type(response) is list:  # of a transaction: errors of its commands lie in it
            for item in response:
                if isinstance(item, RedisError) and (reason := refusal_in(item)):
                    raise ServerRefuses(f"{reason}: {item}") from item
        return response


def with_refusals(connection_class: type) -> type:
    """Return the connection class with `RefusalsAreOutages` before it.

    redis-py 8.1 asks a connection that fails for host and port, which that of a Unix socket has
    not: what was an outage became an AttributeError.
    """
    absent = {
        name: value
        for name, value in (("host", ""), ("port", 0))
        if not hasattr(connection_class, name)
    }
    return type(connection_class.__name__, (RefusalsAreOutages, connection_class), absent)
