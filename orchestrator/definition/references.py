"""References in text: `${{ params.x }}` and `${{ steps.a.output.key[0] }}`.

A reference is `params.NAME` or `steps.NAME.output`, then any number of `.key`, `.0`, `[0]` or
`["key"]`. Names may hold dots and brackets: the longest known name wins. `$${{` stands for the text
`${{`. In a command `file(REFERENCE)` stands for the path of a file with the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from orchestrator.definition.pipeline import OutputRef, ParamRef, Template
from orchestrator.definition.quoting import single_quoted_references
from orchestrator.definition.wire import references
from orchestrator.errors import did_you_mean

_MARK = re.compile(r"\$\$\{\{|\$\{\{(?P<inside>.*?)\}\}|\$\{\{", re.DOTALL)
_FILE = re.compile(r"file\s*\(")
_PATH_PART = re.compile(
    r"""\.(?P<key>[^.\[\]\s"']+) | \[(?P<index>-?\d+)\]
        | \["(?P<double>[^"]*)"\] | \['(?P<single>[^']*)'\]""",
    re.VERBOSE,
)


class ReferenceInvalid(ValueError):
    """A reference leads nowhere or cannot be read; the message is a sentence that begins with the
    reference."""


def parse_text(
    text: str, steps: Collection[str], params: Collection[str]
) -> str | OutputRef | ParamRef | Template:
    """Return the reference if the text is exactly one, the text if it holds none, else a Template.

    Raises ReferenceInvalid for the first reference that cannot be read. A well-formed reference to
    an unknown step or param is given as it stands; that is a fault of the pipeline, found with the
    others.
    """
    parsed, invalid = _parsed(text, steps, params)
    if invalid:
        raise invalid[0]
    return parsed


def parse_value(
    value: Any,
    steps: Collection[str],
    params: Collection[str],
    faults: list[str],
    owner: str,
    *,
    in_command: bool = False,
) -> Any:
    """Return the value with every text in it parsed, at any depth; appends a sentence for each bad
    reference.

    Bad references are left out of their text, so that the others in it are still checked.
    """
    if isinstance(value, str):
        parsed, invalid = _parsed(value, steps, params)
        faults += [f"{owner}: {error}" for error in invalid]
        if not in_command:
            faults += [
                f"{owner}: '${{{{ file({written(reference)}) }}}}' stands in an argument, but only"
                f" a command ('run') is given files. Write '${{{{ {written(reference)} }}}}'."
                for reference in references(parsed)
                if reference.as_file
            ]
        return parsed
    if isinstance(value, list):
        return [parse_value(item, steps, params, faults, owner) for item in value]
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, str) and "${{" in key:
                faults.append(f"{owner}: key {key!r} holds a reference; only values may.")
        return {key: parse_value(item, steps, params, faults, owner) for key, item in value.items()}
    return value


def parse_command(
    text: str, steps: Collection[str], params: Collection[str], faults: list[str], owner: str
) -> str | Template:
    """Return a shell command with its references parsed; appends a sentence for each bad or
    single-quoted one."""
    faults += [
        f"{owner}: `{reference}` stands in single quotes, where the shell fills nothing in. Use"
        " double quotes."
        for reference in single_quoted_references(text)
    ]
    if "\0" in text:
        faults.append(f"{owner}: its command holds a NUL, which no command can.")
    parsed = parse_value(text, steps, params, faults, owner, in_command=True)
    return Template((parsed,)) if isinstance(parsed, OutputRef | ParamRef) else parsed


def _parsed(
    text: str, steps: Collection[str], params: Collection[str]
) -> tuple[str | OutputRef | ParamRef | Template, list[ReferenceInvalid]]:
    """Return what `parse_text` gives, without the references that cannot be read, and what is wrong
    with each."""
    if "${{" not in text:
        return text, []
    parts: list[str | OutputRef | ParamRef] = []
    invalid: list[ReferenceInvalid] = []
    end = 0
    for mark in _MARK.finditer(text):
        _append(parts, text[end : mark.start()])
        end = mark.end()
        if mark.group() == "$${{":
            _append(parts, "${{")
        elif mark["inside"] is None:
            shown = _shown(text[mark.start() :])
            invalid.append(ReferenceInvalid(f"{shown} is not closed; end it with '}}}}'."))
            break  # what follows is inside it
        else:
            try:
                parts.append(_reference(mark["inside"].strip(), steps, params))
            except ReferenceInvalid as error:
                invalid.append(error)
    _append(parts, text[end:])
    if len(parts) == 1:
        return parts[0], invalid
    return Template(tuple(parts)) if parts else "", invalid


def _reference(
    inside: str, steps: Collection[str], params: Collection[str]
) -> OutputRef | ParamRef:
    shown = f"'${{{{ {inside} }}}}'"
    if not (call := _FILE.match(inside)):
        return _plain_reference(inside, steps, params, shown)
    if not inside.endswith(")"):
        raise ReferenceInvalid(f"{shown} is not closed; end it with ')'.")
    inner = inside[call.end() : -1].strip()
    if _FILE.match(inner):
        raise ReferenceInvalid(f"{shown} names a file of a file; write 'file' once.")
    return replace(_plain_reference(inner, steps, params, shown), as_file=True)


def _plain_reference(
    inside: str, steps: Collection[str], params: Collection[str], shown: str
) -> OutputRef | ParamRef:
    root, dot, rest = inside.partition(".")
    if root == "params" and dot and rest:
        name = next((n for n in _openings(rest) if n in params), None)
        if name is None:
            name = re.split(r"[.\[]", rest, maxsplit=1)[0]
        return ParamRef(name, _path(rest[len(name) :], shown))
    if root == "steps" and dot and rest:
        ends = [m.start() for m in re.finditer(r"\.output(?=[.\[]|$)", rest)]
        names = [rest[:end] for end in ends]
        name = next((n for n in reversed(names) if n in steps), names[0] if names else None)
        if name:
            return OutputRef(name, _path(rest[len(name) + len(".output") :], shown))
        raise ReferenceInvalid(f"{shown} names no output. Write '${{{{ steps.NAME.output }}}}'.")
    raise ReferenceInvalid(
        f"{shown} begins with neither 'params.' nor"
        f" 'steps.'.{did_you_mean(root, ('params', 'steps'))}"
    )


def _openings(rest: str) -> Iterator[str]:
    """Return the beginnings of a text that may be a name, longest first."""
    yield rest
    for boundary in reversed(list(re.finditer(r"[.\[]", rest))):
        yield rest[: boundary.start()]


def _path(text: str, written: str) -> tuple[str | int, ...]:
    path: list[str | int] = []
    at = 0
    while at < len(text):
        part = _PATH_PART.match(text, at)
        if part is None:
            raise ReferenceInvalid(
                f"{written} cannot be read at {text[at:]!r}. Write '.key', '[0]' or '[\"key\"]'."
            )
        if part["index"] is not None:
            path.append(int(part["index"]))
        elif part["key"] is not None:
            path.append(
                int(part["key"])
                if part["key"].isdecimal() and part["key"].isascii()
                else part["key"]
            )
        else:
            path.append(part["double"] if part["double"] is not None else part["single"])
        at = part.end()
    return tuple(path)


def written(reference: OutputRef | ParamRef) -> str:
    """Return a reference as it is written in a pipeline file, without the braces, and without
    `file()`."""
    path = "".join(f"[{json.dumps(part)}]" for part in reference.path)
    if isinstance(reference, ParamRef):
        return f"params.{reference.param}{path}"
    return f"steps.{reference.step}.output{path}"


def _append(parts: list[str | OutputRef | ParamRef], text: str) -> None:
    if text and parts and isinstance(parts[-1], str):
        parts[-1] += text
    elif text:
        parts.append(text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
