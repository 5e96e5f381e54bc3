"""The answers of commands to programs."""

from __future__ import annotations

import click
import pytest

from orchestrator.cli.answer import json_option
from orchestrator.cli.main import COMMANDS, main
from orchestrator.cli.params import TakesParams

ALL = {name: main.get_command(click.Context(main), name) for name in COMMANDS}


@pytest.mark.parametrize(
    "name", [name for name, it in ALL.items() if any(p.name == "as_json" for p in it.params)]
)
def test_every_option_for_json_keeps_standard_output_for_the_answer(name) -> None:
    @click.command()
    @json_option()
    def command(as_json):
        """Take the option as it should be."""

    (option,) = [param for param in ALL[name].params if param.name == "as_json"]
    assert option.callback.__code__ is command.params[0].callback.__code__


@pytest.mark.parametrize(
    "name", [name for name, it in ALL.items() if any(p.name == "params" for p in it.params)]
)
def test_every_command_with_params_says_how_they_are_given(name) -> None:
    assert isinstance(ALL[name], TakesParams)
