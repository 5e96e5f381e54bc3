"""The retry rule: whether a failed attempt is followed by another one, and when."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.definition.callables import class_name
from orchestrator.definition.options import StepOptions


def may_retry(options: StepOptions, attempt: int, exception_names: Sequence[str]) -> bool:
    """Return whether the attempt that failed (counted from 1) may be followed by another one.

    `exception_names` are those of the raised class and of all its bases, as `exception_names()`
    gives them.
    """
    if attempt > options.retries:
        return False
    names = set(exception_names)
    if names.intersection(options.never_retry_on):
        return False
    return not options.retry_on or bool(names.intersection(options.retry_on))


def retry_delay_s(options: StepOptions, attempt: int, random_unit: float) -> float:
    """Return the seconds between the failure of an attempt (counted from 1) and the next one.

    The delay grows by `retry_backoff`, is capped, then jittered, and never exceeds
    `retry_max_delay`. `random_unit` is a random number between 0 and 1; 0.5 gives the delay without
    jitter.
    """
    try:
        delay_s = options.retry_delay * options.retry_backoff ** (attempt - 1)
    except OverflowError:
        delay_s = options.retry_max_delay if options.retry_delay else 0.0
    capped_s = min(delay_s, options.retry_max_delay)
    jittered_s = capped_s * (1 + options.retry_jitter * (2 * random_unit - 1))
    return min(jittered_s, options.retry_max_delay)


def exception_names(exc_type: type[BaseException]) -> tuple[str, ...]:
    """Return the names of a class and its bases, nearest first: "ValueError" for built-ins, else
    "module:Class"."""
    return tuple(class_name(cls) for cls in exc_type.__mro__ if cls is not object)
