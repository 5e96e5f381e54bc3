"""Arguments checked against a signature, without values: the names and the counts."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

from orchestrator.errors import names_hint


@dataclass(frozen=True, slots=True)
class ArgumentList:
    """What a function takes; made once for each function, for many calls.

    `positional` are the names that a position fills, of which the first `positional_only_count`
    have no keyword; `required` are the names without a default, in the order of the signature;
    `requires_keywords` when one of them has no position.
    """

    positional: tuple[str, ...]
    positional_only_count: int
    keywords: frozenset[str]
    required: tuple[str, ...]
    requires_keywords: bool
    takes_more_positions: bool
    takes_more_keywords: bool

    def position_name(self, index: int) -> str:
        """Return a name for a positional argument, for messages."""
        return (
            repr(self.positional[index])
            if index < len(self.positional)
            else f"at position {index + 1}"
        )

    def faults(
        self, step: str, uses: str, position_count: int, kwargs: Mapping[str, Any]
    ) -> list[str]:
        """Return a sentence for each argument that is missing, unknown, given twice or one too
        many."""
        if position_count == len(self.positional) and not kwargs and not self.requires_keywords:
            return []
        by_position = self.positional[:position_count]
        faults = []
        if position_count > len(self.positional) and not self.takes_more_positions:
            faults.append(
                f"step {step!r} gives {position_count} positional arguments, but {uses} takes"
                f" {len(self.positional)}."
            )
        for name in kwargs:
            if name in self.keywords:
                if name in by_position:
                    faults.append(
                        f"step {step!r} gives argument {name!r} of {uses} both by position and by"
                        " name."
                    )
            elif not self.takes_more_keywords:
                if name in self.positional[: self.positional_only_count]:
                    faults.append(
                        f"step {step!r} gives argument {name!r} of {uses} by name; give it by"
                        " position."
                    )
                else:
                    hint = names_hint(name, self.keywords.difference(kwargs))
                    faults.append(
                        f"step {step!r} gives argument {name!r}, which {uses} does not take.{hint}"
                    )
        for name in self.required:
            # a positional-only name given by keyword has its fault already
            has_keyword = name in kwargs
            if name not in by_position and not has_keyword:
                faults.append(f"step {step!r} lacks argument {name!r} of {uses}.")
        return faults


def argument_list(function: Callable[..., Any]) -> ArgumentList | None:
    """Return what a function takes; None when it has no signature to be read, as some written in
    C."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None
    by_position = [
        p
        for p in parameters
        if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    by_name = [
        p for p in parameters if p.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    named = by_position + [p for p in by_name if p.kind is Parameter.KEYWORD_ONLY]
    return ArgumentList(
        positional=tuple(p.name for p in by_position),
        positional_only_count=sum(p.kind is Parameter.POSITIONAL_ONLY for p in by_position),
        keywords=frozenset(p.name for p in by_name),
        required=tuple(p.name for p in named if p.default is Parameter.empty),
        requires_keywords=any(
            p.kind is Parameter.KEYWORD_ONLY and p.default is Parameter.empty for p in named
        ),
        takes_more_positions=any(p.kind is Parameter.VAR_POSITIONAL for p in parameters),
        takes_more_keywords=any(p.kind is Parameter.VAR_KEYWORD for p in parameters),
    )


def return_type(function: Callable[..., Any]) -> Any:
    """Return the type that a function is annotated to return; None when there is none or it cannot
    be read."""
    try:
        return typing.get_type_hints(function).get("return")
    except Exception:  # annotations are evaluated code: whatever they raise, the type stays unknown
        return None
