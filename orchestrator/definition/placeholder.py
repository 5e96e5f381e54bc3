"""What a step gives while the pipeline is being built: a stand-in for an output that is known only
at run time."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

from orchestrator.definition.callables import NoStep, WrappedFunction
from orchestrator.definition.pipeline import OutputRef, ParamRef
from orchestrator.errors import PlaceholderMisuse


class BuildSite(Protocol):
    """The pipeline under construction that a placeholder belongs to."""

    def add_need(self, step: str, other: str) -> None:
        """Let a step wait for another one."""

    def add_call(
        self, step: WrappedFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Placeholder:
        """Add a step for a call; gives the placeholder of its output."""


site_being_built: ContextVar[BuildSite | None] = ContextVar("site_being_built", default=None)


class Placeholder:
    """Stands for the output of a step, or for a part of it.

    Index it to reach a part, unpack it if the step's function is annotated with a tuple, pass it on
    to other steps. Everything that needs the value itself raises PlaceholderMisuse.
    """

    __slots__ = ("_returns", "_site", "ref")

    def __init__(self, site: BuildSite, ref: OutputRef, returns: Any = None) -> None:
        self._site, self.ref, self._returns = site, ref, returns

    def after(self, *others: Placeholder | str) -> Placeholder:
        """Let the step wait for others without reading their outputs; give the placeholder
        itself."""
        for other in others:
            self._site.add_need(self.ref.step, needed_step(self._site, other))
        return self

    def belongs_to(self, site: BuildSite) -> bool:
        """Return whether the placeholder was made by this pipeline under construction."""
        return self._site is site

    def __getitem__(self, key: str | int) -> Placeholder:
        if isinstance(key, bool) or not isinstance(key, str | int):
            self._refuse(
                f"indexed by {type(key).__name__}: only str and int reach a part of it. Pass it to"
                " a step, and take the part there"
            )
        items = tuple_items(self._returns)
        returns = None
        if items is not None:
            if isinstance(key, str) or not -len(items) <= key < len(items):
                self._refuse(f"indexed by {key!r}, but the function gives a tuple of {len(items)}")
            returns = items[key]
        return Placeholder(self._site, OutputRef(self.ref.step, (*self.ref.path, key)), returns)

    def __iter__(self) -> Iterator[Placeholder]:
        items = tuple_items(self._returns)
        if items is None:
            self._refuse(
                "iterated over: how many items it has is not known yet. Pass it whole to a step,"
                " and loop there; to unpack a fixed number of items, annotate the function with '->"
                " tuple[A, B]'"
            )
        return iter([self[index] for index in range(len(items))])

    def __len__(self) -> int:
        items = tuple_items(self._returns)
        if items is None:
            self._refuse("asked for its length. Pass it to a step, and take the length there")
        return len(items)

    def keys(self) -> NoReturn:
        """Refuse to be unpacked as keyword arguments."""
        self._refuse(
            "unpacked as a mapping. Pass it whole to a step, or the parts by name, as in"
            " f(x=output['x'])"
        )

    def __getattr__(self, name: str) -> NoReturn:
        # AttributeError, so that hasattr() and copy keep working
        raise AttributeError(
            f"{self._who()} has no attribute {name!r}. Index it, or read {name!r} in a step."
        )

    def __repr__(self) -> str:
        path = "".join(f"[{key!r}]" for key in self.ref.path)
        return f"<output of step {self.ref.step!r}{path}>"

    def _who(self) -> str:
        part = "".join(f"[{key!r}]" for key in self.ref.path)
        where = f" at {part}" if part else ""
        return (
            f"a placeholder for the output of step {self.ref.step!r}{where}, which is known only at"
            " run time,"
        )

    def _refuse(self, use: str) -> NoReturn:
        raise PlaceholderMisuse(f"{self._who()} cannot be {use}.")


class SecretPlaceholder:
    """Stands for a secret param. Pass it on to steps, at any depth of lists, tuples and dicts; they
    get the text."""

    __slots__ = ("ref",)

    def __init__(self, name: str) -> None:
        self.ref = ParamRef(name)

    def __repr__(self) -> str:
        return f"<secret param {self.ref.param!r}>"

    def _refuse(self, use: str) -> NoReturn:
        raise PlaceholderMisuse(
            f"param {self.ref.param!r} is a secret, known to steps only: it cannot be {use}."
        )


class OpenPlaceholder:
    """Stands for a param that has no value while a plan is only looked at, or for a part of it.
    Steps may be given it; that the shape of the pipeline depends on it is refused."""

    __slots__ = ("ref",)

    def __init__(self, name: str, path: tuple[str | int, ...] = ()) -> None:
        self.ref = ParamRef(name, path)

    def __getitem__(self, key: object) -> OpenPlaceholder:
        if isinstance(key, bool) or not isinstance(key, str | int):
            self._refuse(f"indexed by {type(key).__name__}")
        return OpenPlaceholder(self.ref.param, (*self.ref.path, key))

    def __repr__(self) -> str:
        return f"<param {self.ref.param!r}>"

    def __getattr__(self, name: str) -> NoReturn:
        # AttributeError, so that hasattr() and copy keep working
        param = self.ref.param
        raise AttributeError(
            f"the steps depend on param {param!r}, which has no attribute {name!r} without a"
            f" value. Give it: -p {param}=…"
        )

    def _refuse(self, use: str) -> NoReturn:
        name, what = self.ref.param, use.partition(".")[0]
        raise PlaceholderMisuse(
            f"the steps depend on param {name!r}, which is {what}. Give it: -p {name}=…"
        )


def _refusing(use: str) -> Callable[..., NoReturn]:
    def refuse(self: Placeholder | SecretPlaceholder | OpenPlaceholder, *_: object) -> NoReturn:
        self._refuse(use)

    return refuse


_REFUSED = {
    "used as a bool. Pass it to a step, and decide there": "bool",
    "turned into text. Pass it to a step, and make the text there": "str format bytes fspath",
    "turned into a number. Pass it to a step, and do that there": (
        "int float complex index round trunc floor ceil"
    ),
    "iterated over. Pass it whole to a step, and loop there": "reversed aiter anext",
    "computed with. Pass it to a step, and compute there": (
        "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv floordiv rfloordiv mod"
        " rmod pow rpow matmul rmatmul divmod rdivmod and rand or ror xor rxor lshift rlshift"
        " rshift rrshift neg pos abs invert"
    ),
    "compared. Pass it to a step, and compare there": "eq ne lt le gt ge",
    "searched with 'in'. Pass it to a step, and look there": "contains",
    "changed. Return the changed value from a step": "setitem delitem",
    "called. Pass it to a step, and call it there": "call",
    "awaited. A step that takes it waits for it": "await",
    "used as a context manager. Pass it to a step, and open it there": "enter exit aenter aexit",
}
for _use, _names in _REFUSED.items():
    for _name in _names.split():
        for _kind in (Placeholder, SecretPlaceholder, OpenPlaceholder):
            setattr(_kind, f"__{_name}__", _refusing(_use))
_APART = _refusing("taken apart. Pass it to a step, and do that there")
for _name in ("iter", "len", "getitem"):
    setattr(SecretPlaceholder, f"__{_name}__", _APART)
for _name in ("iter", "len"):
    setattr(OpenPlaceholder, f"__{_name}__", _APART)


def needed_step(site: BuildSite, other: object) -> str:
    """Return the name of the step that `other` (a placeholder or a name) means."""
    if isinstance(other, Placeholder):
        if not other.belongs_to(site):
            raise PlaceholderMisuse(f"{other!r} belongs to another pipeline.")
        return other.ref.step
    if isinstance(other, str):
        return other
    raise PlaceholderMisuse(
        f"{other!r} is not a step to wait for. Give the output of a step, or its name."
    )


def without_placeholders(site: BuildSite, value: Any) -> Any:
    """Return the value with an OutputRef for each placeholder, at any depth of lists, tuples and
    dicts."""
    kind = type(value)
    if kind is Placeholder:
        needed_step(site, value)
        return value.ref
    if kind is SecretPlaceholder or kind is OpenPlaceholder:
        return value.ref
    if kind is list:
        return [without_placeholders(site, item) for item in value]
    if kind is tuple:
        return tuple([without_placeholders(site, item) for item in value])
    if kind is dict:
        return {
            without_placeholders(site, key): without_placeholders(site, item)
            for key, item in value.items()
        }
    if isinstance(value, WrappedFunction):
        name = getattr(value.function, "__name__", repr(value.function))  # a partial has none
        raise PlaceholderMisuse(f"step {name!r} is given as a value; call it: {name}()")
    if isinstance(value, NoStep):
        raise PlaceholderMisuse(f"{value!r} is given as a value. {value.hint}")
    return value


def tuple_items(returns: Any) -> tuple[Any, ...] | None:
    """Return the item types of a tuple type of known length (a NamedTuple too), else None."""
    if typing.get_origin(returns) is tuple:
        items = typing.get_args(returns)
        return None if Ellipsis in items else items
    if isinstance(returns, type) and issubclass(returns, tuple) and hasattr(returns, "_fields"):
        hints = getattr(returns, "__annotations__", {})
        return tuple(hints.get(name) for name in returns._fields)
    return None
