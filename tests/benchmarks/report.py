"""The figures as tables for people and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from figures import Comparison, Figure
from rich.console import Console
from rich.table import Table

console = Console()
if not console.is_terminal:
    console = Console(width=120)


def show(
    facts: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    figures: Sequence[Figure],
    notes: Sequence[str],
) -> None:
    """Print what was found. Times are medians in milliseconds a step; the ratio is of the medians
    of whole runs."""
    console.print(" · ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    done = [made for made in comparisons if made.ours_s and made.plain_s]
    if done:
        table = Table("DAG", "plain Celery as", "Celery events", "repeats")
        for heading in ("ours ms/step", "plain ms/step", "ours ÷ plain", "target"):
            table.add_column(heading, justify="right")
        for made in done:
            table.add_row(
                made.name,
                made.against,
                "on" if made.events else "off",
                str(len(made.plain_s)),
                f"{statistics.median(made.ours_s) / made.steps * 1000:.2f}",
                f"{statistics.median(made.plain_s) / made.steps * 1000:.2f}",
                f"{made.ratio:.2f}",
                f"≤ {made.target:g}" if made.target else "",
            )
        console.print(table)
    if figures:
        table = Table("measure")
        for heading in ("value", "target"):
            table.add_column(heading, justify="right")
        for figure in figures:
            target = f"≤ {figure.target:g}" if figure.target else ""
            table.add_row(figure.name, f"{figure.value:,.1f} {figure.unit}", target)
        console.print(table)
    for note in notes:
        console.print(f"note: {note}", highlight=False)


def as_json(
    facts: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    figures: Sequence[Figure],
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "facts": dict(facts),
        "comparisons": [{**asdict(made), "ratio": made.ratio} for made in comparisons],
        "figures": [asdict(figure) for figure in figures],
        "notes": list(notes),
    }
