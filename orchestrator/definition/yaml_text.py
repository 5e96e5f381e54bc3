"""YAML and JSON text to plain values, with the line of everything that plain values cannot show.

YAML is read by the core schema of YAML 1.2, where only `true` and `false` are booleans, `1e-3` is a
number, and `on`, `yes` and `2024-01-01` are text. What JSON could not hold is a fault.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from orchestrator.errors import PipelineInvalid
from orchestrator.wording import punctuated, with_article

# a few lines of aliases of aliases can stand for more than any memory holds
VALUES_MAX = 20_000_000
_TAG = "tag:yaml.org,2002:"
_CLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _TooLarge(Exception):
    """Aliases unfold to too many values."""


class _CoreLoader(_CLoader):  # type: ignore[misc]
    """Reads YAML 1.2's plain scalars; PyYAML alone reads those of YAML 1.1."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
):
    _CoreLoader.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})\Z"), _first)


def read_yaml(text: str, source: str) -> tuple[Any, list[str]]:
    """Return the value, and a sentence for each part that is not a JSON value or stands twice.

    Raises PipelineInvalid, about `source`, when the text is not YAML.
    """
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f" ({error.context})" if error.context else ""
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        hint = " Inside [ ] and { }, write references in quotes." if "${{" in line else ""
        raise PipelineInvalid(
            source, [f"this is not YAML: {place}{punctuated(f'{error.problem}{context}')}{hint}"]
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = (
            "it is nested too deeply"
            if isinstance(error, RecursionError)
            else " ".join(str(error).split())
        )
        raise PipelineInvalid(source, [f"this is not YAML: {punctuated(reason)}"]) from None
    reading = _Reading()
    try:
        return (reading.value(node, "") if node is not None else None), reading.faults
    except RecursionError:
        raise PipelineInvalid(source, ["the file is nested too deeply."]) from None
    except _TooLarge:
        raise PipelineInvalid(
            source, [f"its aliases unfold to more than {VALUES_MAX:,} values."]
        ) from None


def read_json(text: str, source: str) -> tuple[Any, list[str]]:
    """Return the value, and a sentence for each name that stands twice in an object.

    Raises PipelineInvalid, about `source`, when the text is not JSON.
    """
    faults: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            twice = [name for name in value if names.count(name) > 1]
            faults.extend(f"duplicate name {name!r} in one object." for name in twice)
        return value

    try:
        return json.loads(text, object_pairs_hook=unique), faults
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise PipelineInvalid(
            source, [f"this is not JSON: {place}: {punctuated(error.msg)}"]
        ) from None
    except RecursionError:
        raise PipelineInvalid(source, ["the file is nested too deeply."]) from None


def read_scalar(text: str) -> Any:
    """Return the value of a short YAML text; raises ValueError when it is none."""
    try:
        value, faults = read_yaml(text, "")
    except PipelineInvalid as error:
        raise ValueError(error.faults[0]) from None
    if faults:
        raise ValueError(faults[0])
    return value


class _Reading:
    """One walk over the nodes of a file. `faults` gathers what is wrong on the way."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._open: set[int] = set()
        self._done: dict[int, Any] = {}
        self._counts: dict[int, int] = {}
        self._count = 0

    def value(self, node: yaml.Node, place: str) -> Any:
        if isinstance(node, yaml.ScalarNode):
            self._count += 1
            return self._scalar(node)
        if id(node) in self._done:  # an alias: the value is shared, as the text says
            self._count += self._counts[id(node)]
            if self._count > VALUES_MAX:
                raise _TooLarge
            return self._done[id(node)]
        if id(node) in self._open:
            self.faults.append(f"line {_line(node)}: {place or 'the file'} contains itself.")
            return None
        self._open.add(id(node))
        count_before = self._count
        kind = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != _TAG + kind:
            self.faults.append(
                f"line {_line(node)}: {_short(node.tag)} has no JSON form. Use plain values."
            )
        value: Any
        if isinstance(node, yaml.SequenceNode):
            value = [self.value(item, f"{place}[{at}]") for at, item in enumerate(node.value)]
        else:
            value = self._mapping(node, place)
        self._open.discard(id(node))
        self._done[id(node)] = value
        self._counts[id(node)] = self._count - count_before + 1
        return value

    def _mapping(self, node: yaml.Node, place: str) -> dict[str, Any]:
        value: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = {**self._merged(value_node, place), **merged}
                continue
            if not (isinstance(key_node, yaml.ScalarNode) and key_node.tag == _TAG + "str"):
                written = (
                    repr(key_node.value)
                    if isinstance(key_node, yaml.ScalarNode)
                    else "a list or mapping"
                )
                hint = f' Write it in quotes: "{key_node.value}".' if written[0] in "'\"" else ""
                self.faults.append(f"line {_line(key_node)}: key {written} is not text.{hint}")
                continue
            key = str(key_node.value)
            if key in lines:
                where = f" under {place!r}" if place else ""
                self.faults.append(
                    f"line {_line(key_node)}: duplicate name {key!r}{where}; it stands on line"
                    f" {lines[key]} already."
                )
                continue
            lines[key] = _line(key_node)
            value[key] = self.value(value_node, f"{place}.{key}" if place else key)
        return {**merged, **value}

    def _merged(self, node: yaml.Node, place: str) -> dict[str, Any]:
        found = self.value(node, place)
        merged: dict[str, Any] = {}
        for part in reversed(found if isinstance(found, list) else [found]):
            if isinstance(part, dict):
                merged.update(part)
            else:
                self.faults.append(
                    f"line {_line(node)}: '<<' takes a mapping or a list of mappings."
                )
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, _short(node.tag)
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            self.faults.append(f"line {_line(node)}: {text!r} is not {with_article(kind)}.")
            return None
        self.faults.append(
            f"line {_line(node)}: {text!r} ({kind}) has no JSON form. Write it as text in quotes."
        )
        return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _short(tag: str) -> str:
    return tag.removeprefix(_TAG)
