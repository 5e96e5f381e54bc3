"""The retry rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.definition.options import StepOptions
from orchestrator.definition.retry import exception_names, may_retry, retry_delay_s


class Own(ValueError):
    """An exception outside the built-ins."""


def test_names_run_from_the_class_to_its_bases() -> None:
    assert exception_names(Own) == (f"{__name__}:Own", "ValueError", "Exception", "BaseException")


def test_attempts_after_the_first_are_counted() -> None:
    options = StepOptions(retries=2)
    assert [may_retry(options, attempt, ["ValueError"]) for attempt in (1, 2, 3)] == [
        True,
        True,
        False,
    ]


def test_a_subclass_is_retried_and_never_retry_on_is_stronger() -> None:
    names = exception_names(Own)
    assert may_retry(StepOptions(retries=1, retry_on=("ValueError",)), 1, names)
    assert not may_retry(StepOptions(retries=1, retry_on=("KeyError",)), 1, names)
    assert not may_retry(
        StepOptions(retries=1, retry_on=("ValueError",), never_retry_on=("Exception",)), 1, names
    )


def test_the_delay_grows_and_is_capped() -> None:
    options = StepOptions(retry_delay=1, retry_backoff=3, retry_max_delay=10, retry_jitter=0)
    assert [retry_delay_s(options, attempt, 0.9) for attempt in (1, 2, 3, 4)] == [1, 3, 9, 10]


def test_jitter_is_a_share_of_the_delay() -> None:
    options = StepOptions(retry_delay=100, retry_jitter=0.1)
    assert [round(retry_delay_s(options, 1, unit), 6) for unit in (0, 0.5, 1)] == [90, 100, 110]


@given(
    delay=st.floats(0, 1e6),
    backoff=st.floats(1, 1e6),
    cap=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    attempt=st.integers(1, 1001),
    unit=st.floats(0, 1),
)
def test_no_delay_is_negative_or_above_the_cap(
    delay: float, backoff: float, cap: float, jitter: float, attempt: int, unit: float
) -> None:
    options = StepOptions(
        retry_delay=delay, retry_backoff=backoff, retry_max_delay=cap, retry_jitter=jitter
    )
    assert 0 <= retry_delay_s(options, attempt, unit) <= cap
