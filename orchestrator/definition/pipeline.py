"""What a pipeline is: named steps, what each calls, what each waits for.

Everything here is frozen and pure. Decorators, the builder and YAML all end in a `Pipeline`;
the compiler, the ledger and the workers start from one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.definition.options import StepOptions
from orchestrator.definition.running import RunsLocally


class TriggerRule(StrEnum):
    """When a step may start, judged from how its upstreams ended."""

    ALL_SUCCESS = "all_success"  # every upstream succeeded
    ALL_DONE = "all_done"  # every upstream has ended, however
    # at least one upstream failed; starts at once, without waiting for the rest
    ONE_FAILED = "one_failed"
    NONE_FAILED = "none_failed"  # every upstream has ended and none failed (skipped is fine)
    ALWAYS = "always"  # every upstream has ended, whatever happened; never earlier than that


@dataclass(frozen=True, slots=True)
class OutputRef:
    """Stands for the output of a step, or for a part of it.

    `path` is the way into the value: keys of mappings and indexes of sequences, outermost first.
    With `as_file`, which only commands may have, it stands for the path of a file with the value.
    """

    step: str
    path: tuple[str | int, ...] = ()
    as_file: bool = False


@dataclass(frozen=True, slots=True)
class ParamRef:
    """Stands for a param of the run, or for a part of it; `as_file` as for an output."""

    param: str
    path: tuple[str | int, ...] = ()
    as_file: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """Text with references in it; `parts` alternate freely between str, OutputRef and ParamRef."""

    parts: tuple[str | OutputRef | ParamRef, ...]


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of an importable function: `uses` is "module:function".

    `args` and `kwargs` hold plain values and, at any depth of lists, tuples and dicts,
    `OutputRef`, `ParamRef` and `Template`.
    """

    uses: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShellCall:
    """A command for /bin/sh. A reference in it reaches the shell as a variable, never as code."""

    run: str | Template


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the pipeline. `upstream` names what it waits for, by data or by order, without
    repeats."""

    name: str
    call: FunctionCall | ShellCall
    upstream: tuple[str, ...] = ()
    options: StepOptions = field(default_factory=StepOptions)


@dataclass(frozen=True, slots=True)
class Pipeline(RunsLocally):
    """A checked pipeline with the params of one run bound to it.

    `steps` keeps the order in which the user listed them. `import_path` is the folder that holds
    the user's module, for workers that share the file system; None when the module is installed.
    `deadline_s` is how long a run may take; `alerts` are the targets that hear of its failure,
    beside those of the settings.
    """

    name: str
    steps: Mapping[str, Step]
    params: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    import_path: str | None = None
    deadline_s: float | None = None
    alerts: tuple[str, ...] = field(default=(), repr=False)  # may hold passwords
