"""Where a command's answer goes: standard output, kept free of what the user's code prints when it
is for a program."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

_reserved: TextIO | None = None


def json_option(about: str = "Print JSON.") -> Callable[[Any], Any]:
    """Return the option --json, with which standard output holds the command's answer and nothing
    else."""

    def reserve(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
        if value:
            reserve_stdout()
        return value

    return click.option("--json", "as_json", is_flag=True, callback=reserve, help=about)


def reserve_stdout() -> None:
    """Keep standard output for `answer`, for good. What the user's code, its libraries and its
    processes write to descriptor 1 goes to standard error from now on, also what they write while
    Python ends."""
    global _reserved
    if _reserved is not None:
        return
    sys.stdout.flush()
    try:
        own = os.dup(1)  # not inherited by any process
        os.dup2(2, 1)
    except OSError:  # there is no such descriptor
        return
    _reserved = open(own, "w", encoding=sys.stdout.encoding, errors="backslashreplace")  # noqa: SIM115 (for good)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def answer(text: str, *, nl: bool = True) -> None:
    """Print an answer of the command on its standard output."""
    click.echo(text, file=_reserved, nl=nl)


def say(text: str) -> None:
    """Say something to a person, on standard error."""
    click.echo(text, err=True)
