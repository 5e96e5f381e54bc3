"""A plan as JSON, and as a page of plain text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.definition.pipeline import TriggerRule
from orchestrator.plan.plan import Plan
from orchestrator.wording import and_more, counted, fan_outs

_ROWS = 20  # of a list, unless all are asked for
_WORDS = 8  # of a row


def plan_view(plan: Plan, *, largest_message_bytes: int, compile_s: float) -> dict[str, Any]:
    """Return the plan as a JSON object; a chord's header and body, and the roots, are indexes of
    chains."""
    return {
        "pipeline": plan.pipeline.name,
        "steps": len(plan.order),
        "edges": plan.edge_count,
        "redundant_edges": len(plan.redundant_edges),
        "chains": [list(chain) for chain in plan.chains],
        "chords": [{"header": list(chord.header), "body": chord.body} for chord in plan.chords],
        "roots": list(plan.roots),
        "largest_message_bytes": largest_message_bytes,
        "compile_s": compile_s,
        "critical_path": list(plan.critical_path),
        "redundant": [list(edge) for edge in plan.redundant_edges],
        "levels": [list(steps) for steps in plan.levels],
        "upstream": {name: list(step.upstream) for name, step in plan.pipeline.steps.items()},
    }


def plan_text(
    plan: Plan, view: Mapping[str, Any], *, full: bool = False, in_celery: bool = False
) -> str:
    """Return the plan as a page of text, where `view` is its `plan_view`; with `in_celery` the
    chains and chords that it compiles to.

    Long lists are cut, with a count of the rest, unless `full`.
    """
    page = _Page(plan, full)
    if in_celery:
        more = [page.chains(), page.chords(), page.canvas()]
    else:
        more = [page.levels(), page.critical_path(), page.trigger_rules(), page.redundant_edges()]
    sections = [_heading(plan, view, in_celery), *more]
    return "\n\n".join(section for section in sections if section) + "\n"


def _heading(plan: Plan, view: Mapping[str, Any], in_celery: bool) -> str:
    counts = [counted(len(plan.order), "step"), counted(plan.edge_count, "edge")]
    if not in_celery:
        text = f"pipeline {plan.pipeline.name}: {', '.join(counts)}"
        description = plan.pipeline.description
        return f"{text}\n{description}" if description else text
    counts[-1] += f" ({len(plan.redundant_edges):,} redundant)"
    counts += [counted(len(plan.chains), "chain"), counted(len(plan.chords), "chord")]
    largest, spent_ms = view["largest_message_bytes"], view["compile_s"] * 1000
    return (
        f"pipeline {plan.pipeline.name}: {', '.join(counts)}\n"
        f"compiled in {spent_ms:,.1f} ms; the largest message is {counted(largest, 'byte')}"
    )


def _shared_names(steps: Iterable[str]) -> list[str]:
    """Return the names, those of a fan-out once with their count."""
    return [
        items[0] if len(items) == 1 else f"{shared} ({len(items):,})"
        for shared, items in fan_outs(steps).items()
    ]


@dataclass(frozen=True, slots=True)
class _Page:
    """The sections of the page; a section with nothing to show is empty."""

    plan: Plan
    full: bool

    def levels(self) -> str:
        """Show the steps by how many stand above them on the longest way."""
        title = (
            "Steps, from top to bottom; those in one row can run side by side. Each starts as soon"
            " as what it waits for has ended"
        )
        rows = []
        for steps in self.plan.levels:
            shared = steps if self.full else _shared_names(steps)
            rows.append(self._list(shared, ", "))
        width = len(str(len(rows)))
        return self._section(
            title, self._cut([f"{i:>{width}}  {row}" for i, row in enumerate(rows, 1)])
        )

    def chains(self) -> str:
        title = "Chains: steps in a straight line, sent to the workers together"
        return self._section(
            title, self._cut([f"{i}: {self._path(c)}" for i, c in enumerate(self.plan.chains)])
        )

    def chords(self) -> str:
        title = "Chords: chains on the right wait for all those on the left, and for nothing else"
        rows = self._cut(
            [self._chord(header, bodies) for header, bodies in self._bodies_by_header()]
        )
        if self.plan.roots:
            rows.insert(0, f"waiting for nothing: {self._list(map(str, self.plan.roots), ' ')}")
        return self._section(title, rows)

    def trigger_rules(self) -> str:
        rules = {
            name: TriggerRule(step.options.trigger)
            for name, step in self.plan.pipeline.steps.items()
        }
        rows = [
            f"{name}: {rule}" for name, rule in rules.items() if rule is not TriggerRule.ALL_SUCCESS
        ]
        title = "Trigger rules: all other steps need the success of every upstream"
        return self._section(title, self._cut(rows))

    def critical_path(self) -> str:
        path = self.plan.critical_path
        title = f"Critical path: the longest, {counted(len(path), 'step')}"
        return self._section(title, [self._path(path)] if path else [])

    def redundant_edges(self) -> str:
        title = "Redundant edges: a longer path says the same"
        return self._section(title, self._cut([f"{u} → {v}" for u, v in self.plan.redundant_edges]))

    def canvas(self) -> str:
        """Show the plan in Celery's notation. Chains get names, for one may stand in several
        headers."""
        rows = self._cut(
            [f"c{i} = chain({self._list(c, ', ')})" for i, c in enumerate(self.plan.chains)]
        )
        if self.plan.roots:
            rows.append(f"group({self._fragments(self.plan.roots)})")
        rows += self._cut(
            [
                f"chord([{self._fragments(header)}], body={self._group(bodies)})"
                for header, bodies in self._bodies_by_header()
            ]
        )
        return self._section("Canvas: the same in Celery's notation", rows)

    def _bodies_by_header(self) -> Iterable[tuple[tuple[int, ...], list[int]]]:
        """Return the chords with those of one header put together, as after a fork."""
        bodies: dict[tuple[int, ...], list[int]] = {}
        for chord in self.plan.chords:
            bodies.setdefault(chord.header, []).append(chord.body)
        return bodies.items()

    def _chord(self, header: Sequence[int], bodies: Sequence[int]) -> str:
        chains = self.plan.chains
        left, right = self._list(map(str, header), " "), self._list(map(str, bodies), " ")
        last_steps = self._list((chains[i][-1] for i in header), ", ")
        first_steps = self._list((chains[i][0] for i in bodies), ", ")
        return f"[{left}] ⇒ {right}   ({last_steps} ⇒ {first_steps})"

    def _fragments(self, chains: Iterable[int]) -> str:
        return self._list((f"c{i}" for i in chains), ", ")

    def _group(self, chains: Sequence[int]) -> str:
        return f"c{chains[0]}" if len(chains) == 1 else f"group({self._fragments(chains)})"

    def _section(self, title: str, rows: Sequence[str]) -> str:
        return "\n  ".join([title, *rows]) if rows else ""

    def _cut(self, rows: list[str]) -> list[str]:
        if self.full or len(rows) <= _ROWS:
            return rows
        return [*rows[:_ROWS], f"…{and_more(len(rows) - _ROWS)}"]

    def _list(self, words: Iterable[str], separator: str) -> str:
        words = list(words)
        if self.full or len(words) <= _WORDS:
            return separator.join(words)
        return f"{separator.join(words[:_WORDS])} …{and_more(len(words) - _WORDS)}"

    def _path(self, steps: Sequence[str]) -> str:
        """Join steps by arrows. A cut keeps the last step, for that is the one which others wait
        for."""
        if self.full or len(steps) <= _WORDS:
            return " → ".join(steps)
        first = _WORDS - 1
        return " → ".join([*steps[:first], f"…{and_more(len(steps) - _WORDS)} …", steps[-1]])
