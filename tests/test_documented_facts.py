"""Figures and lists that the docs name outside of tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from orchestrator.alerts.delivery import Pace
from orchestrator.cli.health.checks import ROLES
from orchestrator.cli.health.sizes import FILES_COUNTED, FULL_SHARE, NEARLY_SHARE, RUNS_MEASURED
from orchestrator.cli.main import COMMANDS, main
from orchestrator.definition.names import NAME_LENGTH_MAX
from orchestrator.definition.secrets import MASKED_CHARS
from orchestrator.ledger.server_clock import TOLERANCE_S
from orchestrator.ledger.set_aside import DEAD_BYTES, DEAD_KEPT
from orchestrator.local.worker import RESTARTS
from orchestrator.record.received_json import INLINE_CHARS
from orchestrator.redis_url import TLS_OPTIONS
from orchestrator.settings.model import Settings, secret_names
from orchestrator.worker.child.half_copied import BUDGET_S, QUIET_S
from orchestrator.worker.child.host_faults import CHECKPOINT_BYTES
from orchestrator.worker.child.stages.giving_back import CODE_BACK_OFF, HOST_BACK_OFF
from orchestrator.worker.flower import MOST_NAMES
from orchestrator.worker.log_lines import LINE_CHARS
from orchestrator.worker.thread_shares import VARIABLES

ROOT = Path(__file__).parent.parent
PACE = Pace()

# `#` stands for each figure, in their order.
FIGURES = [
    (
        "operations",
        "memory of the server from # %, the disk of the artifacts from # %",
        (NEARLY_SHARE * 100, FULL_SHARE * 100),
    ),
    (
        "operations",
        "of the newest # runs, by samples, and of the first # artifacts",
        (RUNS_MEASURED, FILES_COUNTED),
    ),
    (
        "operations",
        "of which the last # are kept, cut to # KB each",
        (DEAD_KEPT, DEAD_BYTES / 1024),
    ),
    ("operations", "the first # names are kept", (MOST_NAMES,)),
    (
        "operations",
        "has not answered after # s, is tried again after #, #, #, # and # s",
        (PACE.send_within_s, *PACE.retries_s),
    ),
    ("pipelines", "up to # characters, and do not begin with", (NAME_LENGTH_MAX,)),
    ("pipelines", "a secret of # characters or more", (MASKED_CHARS,)),
    (
        "pipelines",
        "The last # lines of an attempt are kept",
        (Settings.model_fields["log_lines_per_attempt"].default,),
    ),
    ("pipelines", "Of a line longer than # characters", (LINE_CHARS,)),
    (
        "pipelines",
        "writes more than `shell_output_mb` (#) fails",
        (Settings.model_fields["shell_output_mb"].default,),
    ),
    ("recovery", "at once; after # times the run is cancelled", (RESTARTS,)),
    (
        "recovery",
        "The wait is # s at first and # s at most",
        (HOST_BACK_OFF.first_s, HOST_BACK_OFF.longest_s),
    ),
    (
        "recovery",
        "due again after # s, at most # min later",
        (CODE_BACK_OFF.first_s, CODE_BACK_OFF.longest_s / 60),
    ),
    ("recovery", "the store has no room (# MB)", (CHECKPOINT_BYTES / 1024**2,)),
    ("recovery", "is waited for, for # s of each attempt", (BUDGET_S,)),
    ("recovery", "nobody has written to for # s", (QUIET_S,)),
    ("recovery", "put forward or back by more than # s", (TOLERANCE_S,)),
    ("recovery", "A value of more than # characters of JSON", (INLINE_CHARS,)),
]


def text_of(page: str) -> str:
    return " ".join((ROOT / page).read_text("utf-8").split())


def commands_without_json() -> set[str]:
    made = {name: main.get_command(click.Context(main), name) for name in COMMANDS}
    return {
        name
        for name, it in made.items()
        if it and "--json" not in [word for p in it.params for word in p.opts]
    }


# What stands between two phrases, and the words in backquotes there.
LISTS = [
    ("README.md", "All but ", " take `--json`", commands_without_json()),
    ("docs/operations.md", "Steps see no secret among our settings (", "): ", set(secret_names())),
    (
        "docs/operations.md",
        "the service of that role on this host needs: ",
        " Do not let it",
        set(ROLES),
    ),
    (
        "docs/operations.md",
        "`rediss://` takes the options ",
        "; user and password",
        set(TLS_OPTIONS),
    ),
    ("docs/pipelines.md", "the worker sets ", ", and at each step", set(VARIABLES)),
]


@pytest.mark.parametrize(("page", "begin", "end", "words"), LISTS)
def test_a_list_of_the_docs_is_that_of_the_code(
    page: str, begin: str, end: str, words: set[str]
) -> None:
    _, found, rest = text_of(page).partition(begin)
    listed, ended, _ = rest.partition(end)

    assert found, f"{page} does not say: {begin}"
    assert ended, f"{page} does not say: {end}"
    assert set(re.findall(r"`([^`]+)`", listed)) == words


@pytest.mark.parametrize(("page", "sentence", "figures"), FIGURES)
def test_a_figure_of_the_docs_is_that_of_the_code(
    page: str, sentence: str, figures: tuple[float, ...]
) -> None:
    found = re.search(
        re.escape(sentence).replace("\\#", r"([\d,.]*\d)"), text_of(f"docs/{page}.md")
    )

    assert found, f"docs/{page}.md does not say: {sentence}"
    assert [float(word.replace(",", "")) for word in found.groups()] == [
        float(figure) for figure in figures
    ]
