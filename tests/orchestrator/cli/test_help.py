"""Help texts: short, whole sentences, for every command and every option."""

from __future__ import annotations

import click
import pytest

from orchestrator.cli.main import COMMANDS, main

LISTED_CHARS = 62  # what a terminal of 80 columns shows of a first line
GROUP = click.Context(main)


def command_of(name: str) -> click.Command:
    command = main.get_command(GROUP, name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_line_is_one_short_sentence(name: str) -> None:
    first = (command_of(name).help or "").strip().split("\n\n")[0]

    assert "\n" not in first
    assert first.endswith(".")
    assert first[0].isupper()
    assert len(first) <= LISTED_CHARS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    for param in command_of(name).params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert param.help[0].isupper()
            assert param.help.endswith((".", ")", "2026-11-30.")), param.help
            assert len(param.help) <= 80, param.help


@pytest.mark.parametrize("name", ["run", "delete", "step", "verify", "doctor"])
def test_exit_codes_stand_where_a_script_needs_them(name: str) -> None:
    assert "Exit codes: 0 " in (command_of(name).help or "")
