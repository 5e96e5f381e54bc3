"""The option -p of the commands that take params, and what they say to params that are given
otherwise."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.exceptions import NoSuchOption

FILE_PARAMS = "orchestrator.params_file"


def param_option(about: str = "A param of the run (repeatable).") -> Callable[[Any], Any]:
    """Return the options -p and --params-file; both come as key=value texts in `params`."""

    def add(function: Any) -> Any:
        given = click.option(
            "-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help=about, callback=_all
        )
        of_file = click.option(
            "--params-file",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_read_file,
            help="Read params from a YAML or JSON file; -p overrides.",
        )
        return given(of_file(function))

    return add


def _read_file(ctx: click.Context, option: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    from orchestrator.definition.yaml_text import read_json, read_yaml

    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} cannot be read: {error}", ctx, option) from None
    values, faults = (read_json if path.endswith(".json") else read_yaml)(text, path)
    if not faults and not isinstance(values, dict):
        faults = [f"{path} holds no mapping of params to values"]
    if faults:
        raise click.BadParameter(" ".join(faults), ctx, option)
    ctx.meta[FILE_PARAMS] = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def _all(ctx: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the params of the file that no -p gives, then those of -p."""
    stronger = {pair.partition("=")[0] for pair in pairs}
    of_file: dict[str, str] = ctx.meta.get(FILE_PARAMS, {})
    return (*(f"{name}={text}" for name, text in of_file.items() if name not in stronger), *pairs)


def labels_option(about: str = "A label to find the run by (repeatable).") -> Callable[[Any], Any]:
    return click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="KEY=VALUE",
        callback=lambda ctx, option, pairs: _labels(pairs),
        help=about,
    )


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    from orchestrator.runs.finding import read_labels

    try:
        return read_labels(pairs)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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
