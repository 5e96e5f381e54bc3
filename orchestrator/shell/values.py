"""What a shell command is given for its references: variables, or files where it asks for them.

A value is never a part of the command's text, so none is ever read as code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.artifacts.plain import plain_value
from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.references import written
from orchestrator.processes.temporary import temporary_folder
from orchestrator.wording import listed, punctuated

_NAMED = 5
# Linux: MAX_ARG_STRLEN, of one argument or variable with its last NUL; elsewhere only their sum is
# limited.
_STRING_BYTES = 32 * os.sysconf("SC_PAGE_SIZE") if sys.platform.startswith("linux") else sys.maxsize
_POINTER_BYTES = 8


class ReferenceUnusable(ValueError):
    """A value cannot be handed over to a command; the text names its reference and what to write
    instead."""


@dataclass
class HandedOver:
    """A command with its variables. `written` says which reference a variable stands for."""

    text: str
    variables: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def check_length(self, environment: Mapping[str, str]) -> None:
        """Raise ReferenceUnusable where the system would not start a command with so much
        (E2BIG)."""
        sizes = {
            name: len(os.fsencode(f"{name}={value}")) + 1 for name, value in self.variables.items()
        }
        own = len(os.fsencode(self.text)) + 1
        if own > _STRING_BYTES:
            raise ReferenceUnusable(
                f"the command itself is too long: {own - 1:,} bytes, of which the system takes"
                f" {_STRING_BYTES - 1:,}. Put it into a script."
            )
        too_long = [name for name, size in sizes.items() if size > _STRING_BYTES]
        others = sum(
            len(os.fsencode(f"{name}={value}")) + 1 + _POINTER_BYTES
            for name, value in environment.items()
            if name not in sizes
        )
        total = own + others + sum(size + _POINTER_BYTES for size in sizes.values())
        for name in sorted(sizes, key=lambda name: -sizes[name]):
            # as many of the largest as do not fit
            if total <= os.sysconf("SC_ARG_MAX"):
                break
            total -= sizes[name]
            if name not in too_long:
                too_long.append(name)
        if too_long:
            raise ReferenceUnusable(self.too_long(too_long))

    def too_long(self, names: list[str] | None = None) -> str:
        """Return a sentence about variables that are too long, all of them if it is not known
        which."""
        names = names or sorted(self.variables, key=lambda name: -len(self.variables[name]))
        if not names:
            return (
                "the environment of the worker is too long for a command (Argument list too long)"
            )
        text = [
            f"{_braced(self.written[name])} ({len(os.fsencode(self.variables[name])):,} bytes)"
            for name in names
        ]
        return (
            f"too long for a command (Argument list too long): {listed(text, _NAMED)}. Write"
            f" {_braced(f'file({self.written[names[0]]})')}, which stands for the path of a file"
            " with the value."
        )


@contextlib.contextmanager
def handed_over(
    command: str | Template, look_up: Callable[[OutputRef | ParamRef], Any]
) -> Iterator[HandedOver]:
    """Return a command with its values looked up; the files for them are there inside the block.

    Raises ReferenceUnusable.
    """
    given = HandedOver("")
    names: dict[OutputRef | ParamRef, str] = {}
    texts: list[str] = []
    with ExitStack() as stack:
        folder: Path | None = None
        for part in (command,) if isinstance(command, str) else command.parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            name = names.setdefault(part, f"ORC_VALUE_{len(names) + 1}")
            texts.append(f"${{{name}}}")
            if name in given.variables:
                continue
            value = look_up(part)
            if part.as_file:
                folder = folder or stack.enter_context(_private_folder())
            with _named(part):
                if folder and part.as_file:
                    given.variables[name] = str(_value_file(folder / name, value))
                else:
                    given.variables[name] = _checked(shell_text(value), written(part))
            given.written[name] = written(part)
        given.text = "".join(texts)
        yield given


@contextlib.contextmanager
def _named(reference: OutputRef | ParamRef) -> Iterator[None]:
    """Name the reference whose value JSON cannot say: an int of too many digits, a list that holds
    itself."""
    try:
        yield
    except ReferenceUnusable:
        raise
    except (RecursionError, ValueError) as error:
        raise ReferenceUnusable(
            f"the value of {_braced(written(reference))} has no JSON form: {error}"
        ) from None


def shell_text(value: Any) -> str:
    """Return a value as a command reads it: text as it is, all else as JSON."""
    if type(value) is str:
        return value
    shown = plain_value(value)
    return shown if isinstance(shown, str) else json.dumps(shown)


def _checked(text: str, reference: str) -> str:
    instead = (
        f"Write {_braced(f'file({reference})')}, which stands for the path of a file with the"
        " value."
    )
    if "\0" in text:
        raise ReferenceUnusable(
            f"the value of {_braced(reference)} holds a NUL, which no variable can. {instead}"
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ReferenceUnusable(
            f"the value of {_braced(reference)} is not Unicode text: {punctuated(error)} {instead}"
        ) from None
    return text


def _braced(reference: str) -> str:
    return f"${{{{ {reference} }}}}"


def _value_file(path: Path, value: Any) -> Path:
    """Write a value as text, bytes as they are, all else as JSON; return the path with its
    suffix."""
    if isinstance(value, bytes | bytearray | memoryview):
        path = path.with_suffix(".bin")
        path.write_bytes(value)
        return path
    shown = value if type(value) is str else plain_value(value)
    if isinstance(shown, str):
        path = path.with_suffix(".txt")
        path.write_bytes(_encoded(shown))
        return path
    path = path.with_suffix(".json")
    with path.open("w") as file:
        json.dump(shown, file)
    return path


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)  # a file name that is not UTF-8 becomes the bytes that it was
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """Make a folder that nobody else can read, and remove it after the block, or with the worker's
    temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="values-", dir=temporary_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
