"""How people are told of times: moments and spans, which are microseconds everywhere else."""

from __future__ import annotations

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
