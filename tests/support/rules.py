"""What the trigger rules mean for a whole graph, evaluated plainly."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

ENDED = frozenset({"succeeded", "failed", "cancelled", "skipped", "upstream_failed"})
BAD = frozenset({"failed", "upstream_failed", "cancelled"})


def judge(rule: str, upstream_states: Iterable[str]) -> str:
    """Return what a waiting step becomes: the trigger rules, word by word."""
    states = list(upstream_states)
    all_ended = all(state in ENDED for state in states)
    any_bad = any(state in BAD for state in states)
    if rule == "one_failed":
        return "queued" if any_bad else "skipped" if all_ended else "waiting"
    if any_bad and rule in ("all_success", "none_failed"):
        return "upstream_failed"
    if not all_ended:
        return "waiting"
    return "skipped" if rule == "all_success" and "skipped" in states else "queued"


def final_states(
    upstream: Mapping[str, Iterable[str]],
    rules: Mapping[str, str],
    fails: set[str],
    kept: Iterable[str] = (),
) -> dict[str, str]:
    """Return how every step ends, whatever the order, when the steps in `fails` fail for good if
    they run.

    `kept` succeeded before a resume and do not run again.
    """
    states: dict[str, str] = dict.fromkeys(upstream, "waiting") | dict.fromkeys(kept, "succeeded")
    while open_steps := [step for step, state in states.items() if state == "waiting"]:
        for step in open_steps:
            verdict = judge(rules[step], [states[parent] for parent in upstream[step]])
            states[step] = (
                verdict if verdict != "queued" else "failed" if step in fails else "succeeded"
            )
    return states


def set_back(
    before: Mapping[str, Collection[str]],
    now: Mapping[str, Collection[str]],
    succeeded: Collection[str],
    asked: Collection[str] = (),
) -> set[str]:
    """Return the steps that wait anew when a run of the graph `before` goes on as `now`: what has
    not succeeded, what is asked for with all that is below it, and what was decided by a step of
    the run that waits anew.
    """

    def is_set_back(step: str) -> bool:
        if step not in succeeded or step in below:
            return True
        return any(
            up in before.get(step, ()) and up in before and is_set_back(up) for up in now[step]
        )

    below = set(asked)
    for _ in now:
        below |= {step for step, parents in now.items() if below.intersection(parents)}
    return {step for step in now if is_set_back(step)}
