"""How people read times: moments and spans, which are microseconds everywhere else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span_text(us: float) -> str:
    """Return a span as people say it: "0.250 s", "12.5 s", "3 min 20 s", "26 h 5 min"."""
    seconds = us / 1e6
    if seconds < 60:
        return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def clock_text(at_us: int) -> str:
    """Return the time of day in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%H:%M:%S.%f")[:-3]


def rfc3339(at_us: int | None) -> str | None:
    """Return a time as RFC 3339 in UTC, to the microsecond."""
    if at_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def duration_text(began_us: int | None, ended_us: int | None) -> str:
    """Return the time between two moments; empty while either is unknown."""
    if began_us is None or ended_us is None:
        return ""
    return span_text(ended_us - began_us)


def moment_us(text: str, now_us: int) -> int:
    """Return the moment that a person means by a date, a time of RFC 3339, or a span before now as
    "12h" or "7d", in microseconds. Raises ValueError with a sentence."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text):
        seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]
        return now_us - round(seconds * 1e6)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time. Write a date (2026-11-30), a time (2026-11-30T08:00:00Z), or"
            " how long ago (90m, 12h, 7d)."
        ) from None
    return round(moment.timestamp() * 1e6)
