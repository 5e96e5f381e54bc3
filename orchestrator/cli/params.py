"""The option -p of the commands that take params, and what they say to params that are given
otherwise."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.exceptions import NoSuchOption


def param_option(about: str = "A param of the run.") -> Callable[[Any], Any]:
    return click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help=about)


def ask_secrets(names: Sequence[str]) -> Mapping[str, str]:
    """Return the secrets as the person at the terminal types them; nothing where there is no
    terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return {}
    return {name: click.prompt(f"{name} (secret)", hide_input=True, err=True) for name in names}


class TakesParams(click.Command):
    """A command with params of a pipeline. `n=1` and `--n 1` are not its arguments: it says how
    params are given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, ctx.allow_extra_args = list(args), True
        try:
            rest = super().parse_args(ctx, args)
        except NoSuchOption as error:
            if hint := self._meant(ctx, error, given):
                raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None
            raise
        finally:
            ctx.allow_extra_args = False
        if rest:
            words = [value for value in ctx.params.values() if isinstance(value, str)] + rest
            pairs = [word for word in words if _is_pair(word)]
            hint = (
                f" A param is given by -p: {' '.join(f'-p {shlex.quote(pair)}' for pair in pairs)}"
                if pairs
                else ""
            )
            plural = "s" if len(rest) > 1 else ""
            ctx.fail(f"Got unexpected extra argument{plural} ({' '.join(rest)}).{hint}")
        return rest

    def _meant(self, ctx: click.Context, error: NoSuchOption, given: list[str]) -> str:
        """Return a hint for an option that the command does not have: one with a value, or that
        resembles none."""
        name, _, value = error.option_name.lstrip("-").partition("=")
        if not error.option_name.startswith("--"):
            return ""
        for place, word in enumerate(given):
            if word == error.option_name and not value:
                value = next(iter(given[place + 1 : place + 2]), "")
            elif word.startswith(f"{error.option_name}="):
                value = word.partition("=")[2]
        has_value = bool(value) and not value.startswith("-")
        if error.possibilities and not has_value:
            return ""
        shown = shlex.quote(value) if has_value else "…"
        return f"If {name!r} is a param of the pipeline: -p {name}={shown}"


def _is_pair(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name[:1].isidentifier()
