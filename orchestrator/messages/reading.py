"""What an entry of a queue is: a message of ours, one of somebody else's, or none at all.

A queue is a Redis list into which anybody may push. Celery reads a message as it was meant, and its
main process ends at many a one that was not; so nothing reaches Celery but what has been found here
to be exactly as we send it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.definition.names import step_name_fault
from orchestrator.messages.names import FAILURE_TASK, STEP_TASK

ATTEMPT_MAX = 10**9
TEXT_MAX = 2000  # of ids and of what Celery shows; far beyond what we send
SHOWN = 200
_ENCODINGS = ("utf-8", "utf8", None)


@dataclass(frozen=True, slots=True)
class OwnMessage:
    """A message as we send it: kombu's envelope, and its body as it was decoded."""

    envelope: dict[str, Any]
    body: list[Any]


@dataclass(frozen=True, slots=True)
class ForeignMessage:
    """A message of somebody else's: the task that it names and who sent it, where it says so."""

    task: str
    origin: str


@dataclass(frozen=True, slots=True)
class BrokenMessage:
    """An entry that is not a message, or one of our tasks that we did not send so."""

    reason: str


class _Fault(Exception):
    """What is wrong with a message that names a task of ours."""


def read_message(entry: bytes | str) -> OwnMessage | ForeignMessage | BrokenMessage:
    """Return what an entry of a queue is. Never raises."""
    try:
        envelope = json.loads(entry)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError, too
        return BrokenMessage(f"it is not JSON ({type(error).__name__})")
    if not isinstance(envelope, dict):
        return BrokenMessage(f"it is a JSON {type(envelope).__name__}, not a message")
    headers = envelope.get("headers")
    task = headers.get("task") if isinstance(headers, dict) else None
    if task == STEP_TASK and isinstance(headers, dict):
        try:
            _check_envelope(envelope, headers)
            return OwnMessage(envelope, _checked_body(envelope))
        except _Fault as fault:
            return BrokenMessage(f"a message of {STEP_TASK}: {fault}")
    if task == FAILURE_TASK:
        return BrokenMessage(f"{FAILURE_TASK} is never sent as a message")
    if isinstance(task, str) and task:
        origin = headers.get("origin") if isinstance(headers, dict) else None
        return ForeignMessage(_shown(task), _shown(origin))
    if "body" in envelope and isinstance(envelope.get("properties"), dict):
        return _of_an_older_protocol(envelope)
    return BrokenMessage("it is a JSON object, not a message")


def _of_an_older_protocol(envelope: Mapping[str, Any]) -> ForeignMessage | BrokenMessage:
    """Return what a message without a task among its headers is: Celery's protocol 1 names it in
    the body."""
    try:
        body = json.loads(base64.b64decode(envelope["body"]))
    except (ValueError, TypeError, RecursionError):  # compressed, pickled, or of another library
        return ForeignMessage("", "")
    task = body.get("task") if isinstance(body, dict) else None
    if task in (STEP_TASK, FAILURE_TASK):
        return BrokenMessage(f"a message of {task} in Celery's protocol 1, which we do not send")
    return ForeignMessage(_shown(task), "")


def _check_envelope(envelope: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
    properties = envelope.get("properties")
    if not isinstance(properties, dict):
        raise _Fault("it has no properties")
    if (
        envelope.get("content-type") != "application/json"
        or envelope.get("content-encoding") not in _ENCODINGS
    ):
        raise _Fault("its body is not JSON in UTF-8")
    if properties.get("body_encoding") != "base64" or headers.get("compression"):
        raise _Fault("its body is not in base64")
    delivery = properties.get("delivery_info")
    if not isinstance(delivery, dict) or not _is_text(delivery.get("routing_key")):
        raise _Fault("it does not say for which queue it is")
    if not _is_text(properties.get("delivery_tag")) or not _is_text(headers.get("id")):
        raise _Fault("it has no id")
    if not _is_count(properties.get("priority", 0), 9):
        raise _Fault("its priority is not a number up to 9")
    for name in ("correlation_id", "reply_to"):
        _check_optional_text(name, properties.get(name))
    _check_headers(headers)


def _check_headers(headers: Mapping[str, Any]) -> None:
    for name in (
        "lang",
        "shadow",
        "root_id",
        "parent_id",
        "group",
        "argsrepr",
        "kwargsrepr",
        "origin",
    ):
        _check_optional_text(name, headers.get(name))
    for name in ("eta", "expires", "group_index"):
        if headers.get(name) is not None:
            raise _Fault(f"its header {name!r} is set, which we never do")
    for name in ("retries", "replaced_task_nesting"):
        if not _is_count(headers.get(name) or 0, ATTEMPT_MAX):
            raise _Fault(f"its header {name!r} is not a number")
    if (
        headers.get("ignore_result") not in (None, False, True)
        or headers.get("stamps")
        or headers.get("stamped_headers")
    ):
        raise _Fault("its headers are not those that we send")
    _check_time_limits(headers.get("timelimit"))


def _check_time_limits(limits: Any) -> None:
    if limits is None:
        return
    if (
        not isinstance(limits, list)
        or len(limits) != 2
        or limits[0] is not None
        or not _is_span(limits[1])
    ):
        raise _Fault("its header 'timelimit' is not a timeout")


def _checked_body(envelope: Mapping[str, Any]) -> list[Any]:
    try:
        body = json.loads(base64.b64decode(envelope["body"], validate=True))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Fault("its body is not JSON in base64") from None
    if (
        not isinstance(body, list)
        or len(body) != 3
        or body[0] != []
        or not isinstance(body[2], dict)
    ):
        raise _Fault("its body is not that of a task")
    _check_kwargs(body[1])
    embedded = body[2]
    if embedded.get("callbacks") or embedded.get("chord"):
        raise _Fault("it has callbacks, which we do not send")
    _check_errbacks(embedded.get("errbacks"))
    links = embedded.get("chain")
    if links is not None:
        if not isinstance(links, list):
            raise _Fault("its chain is not a list")
        if links:
            # the next one; the others are checked when their own message is read
            _check_link(links[-1])
    return body


def _check_kwargs(kwargs: Any) -> None:
    if not isinstance(kwargs, dict) or kwargs.keys() != {"run_id", "step", "attempt"}:
        raise _Fault("its arguments are not run_id, step and attempt")
    run_id, step = kwargs["run_id"], kwargs["step"]
    if (
        not isinstance(run_id, str)
        or not 0 < len(run_id) <= SHOWN
        or not run_id.isprintable()
        or " " in run_id
    ):
        raise _Fault("its run_id is not a run's id")
    if not isinstance(step, str) or step_name_fault(step):
        raise _Fault("its step is not a step's name")
    if not _is_count(kwargs["attempt"], ATTEMPT_MAX) or not kwargs["attempt"]:
        raise _Fault("its attempt is not a number from 1 on")


def _check_errbacks(errbacks: Any) -> None:
    if errbacks is None:
        return
    if not isinstance(errbacks, list) or any(
        not isinstance(errback, dict)
        or errback.get("task") != FAILURE_TASK
        or errback.get("args")
        or errback.get("kwargs")
        for errback in errbacks
    ):
        raise _Fault("its error callbacks are not ours")


def _check_link(link: Any) -> None:
    if not isinstance(link, dict) or link.get("task") != STEP_TASK or link.get("args"):
        raise _Fault("its chain holds what is not a step")
    _check_kwargs(link.get("kwargs"))
    options = link.get("options")
    if not isinstance(options, dict) or not _is_text(options.get("queue")):
        raise _Fault("a link of its chain has no queue")
    if not _is_count(options.get("priority", 0), 9) or not _is_span(options.get("soft_time_limit")):
        raise _Fault("a link of its chain has options of the wrong kind")
    for name in ("shadow", "task_id", "reply_to"):
        _check_optional_text(name, options.get(name))
    _check_errbacks(options.get("link_error"))


def _check_optional_text(name: str, value: Any) -> None:
    # Empty where there is none: correlation ids and such are texts, whatever they say.
    if value is not None and value != "" and not _is_text(value):
        raise _Fault(f"its {name!r} is not a text")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= TEXT_MAX and value.isprintable()


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_span(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < float("inf"))


def _shown(value: Any) -> str:
    """Return a name from somebody else's message as it may stand in a log."""
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else "?" for char in value[:SHOWN])
