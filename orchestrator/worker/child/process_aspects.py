"""The aspects of a process that a step may change: how each is read, and how it is put back. See
`process_state.py`."""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]
import decimal
import faulthandler
import gc
import locale
import multiprocessing.context
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

_environ = os.environ
# installed before each step (`worker.interruption`)
_RESERVED = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTERM,
)
_HANDLED = tuple(
    int(number)
    for number in signal.valid_signals()
    if number not in (*_RESERVED, signal.SIGKILL, signal.SIGSTOP)
)
_TIMERS = int(signal.ITIMER_REAL), int(signal.ITIMER_VIRTUAL), int(signal.ITIMER_PROF)
_SIG_BLOCK = int(signal.SIG_BLOCK)
_SYS_LISTS = ("path", "meta_path", "path_hooks", "argv", "warnoptions")
_SYS_NAMES = (
    "stdin", "excepthook", "unraisablehook", "displayhook", "breakpointhook", "dont_write_bytecode",
    "pycache_prefix",
)  # fmt: skip
_names_of_sys, _lists_of_sys = attrgetter(*_SYS_NAMES), attrgetter(*_SYS_LISTS)


@dataclass(frozen=True, slots=True)
class Aspect:
    """`read` returns a value that compares equal as long as nothing has changed; `put_back` takes
    such a value."""

    name: str
    read: Callable[[], Any]
    put_back: Callable[[Any], None]
    is_of_imports: bool = True  # whether what an import changes here stays


def _read_timers() -> tuple[bool, ...]:
    return tuple([_signal.getitimer(which)[0] > 0 for which in _TIMERS])


def _stop_timers(running: tuple[bool, ...]) -> None:
    for which, was_running in zip(_TIMERS, running, strict=True):
        if not was_running:
            signal.setitimer(which, 0)


def _read_handlers() -> list[Any]:
    return [*map(_signal.getsignal, _HANDLED)]


def _put_back_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_HANDLED, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) is not handler:
            # None: C code has set it
            signal.signal(number, handler)


def _read_mask() -> set[int]:
    return _signal.pthread_sigmask(_SIG_BLOCK, ())  # type: ignore[no-any-return]


def _read_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # somebody has removed it
        return ""


def _put_back_folder(folder: str) -> None:
    """Go back, or to the nearest folder above that is still there."""
    while folder:
        try:
            return os.chdir(folder)
        except OSError:
            folder = os.path.dirname(folder) if folder != os.path.dirname(folder) else ""
    return None


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_environment() -> tuple[Any, dict[Any, Any]]:
    return os.environ, dict(_environ._data)  # type: ignore[attr-defined]


def _put_back_environment(kept: tuple[Any, dict[bytes, bytes]]) -> None:
    os.environ, variables = kept
    names: Any = _environ
    data, decode = names._data, names.decodekey
    for name in [name for name in data if name not in variables]:
        del names[decode(name)]
    for name, value in variables.items():
        if data.get(name) != value:
            names[decode(name)] = names.decodevalue(value)


def _read_time_zone() -> tuple[Any, ...]:
    return time.tzname, time.timezone, time.altzone


def _put_back_time_zone(_: tuple[Any, ...]) -> None:
    time.tzset()  # the environment is as before


def _read_locale() -> str:
    return _locale.setlocale(_locale.LC_ALL, None)


def _put_back_locale(name: str) -> None:
    locale.setlocale(locale.LC_ALL, name)


def _read_sys_lists() -> list[tuple[Any, Any]]:
    return [(kept, [*kept]) for kept in _lists_of_sys(sys)]


def _put_back_sys_lists(lists: list[tuple[Any, Any]]) -> None:
    for name, (kept, content) in zip(_SYS_LISTS, lists, strict=True):
        kept[:] = content
        setattr(sys, name, kept)


def _read_sys_names() -> tuple[Any, ...]:
    return _names_of_sys(sys), threading.excepthook, tempfile.tempdir


def _put_back_sys_names(values: tuple[Any, ...]) -> None:
    for name, value in zip(_SYS_NAMES, values[0], strict=True):
        setattr(sys, name, value)
    _, threading.excepthook, tempfile.tempdir = values


def _read_interpreter() -> tuple[Any, ...]:
    return (
        sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits(),
        gc.isenabled(), gc.get_threshold(), gc.get_debug(), socket.getdefaulttimeout(),
        faulthandler.is_enabled(),
        sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth(), sys.getdlopenflags(),
        _stack_size(),
    )  # fmt: skip


_DECIMAL_CONTEXTS = decimal.DefaultContext, decimal.BasicContext, decimal.ExtendedContext


def _read_decimal_contexts() -> list[Any]:
    return [context.__reduce__()[1] for context in _DECIMAL_CONTEXTS]


def _put_back_decimal_contexts(contexts: list[Any]) -> None:
    for context, kept in zip(_DECIMAL_CONTEXTS, contexts, strict=True):
        before = decimal.Context(*kept)
        for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
            setattr(context, name, getattr(before, name))
        for signals, of_before in ((context.flags, before.flags), (context.traps, before.traps)):
            for each, is_set in of_before.items():
                signals[each] = is_set


def _stack_size() -> int:
    """Return the size of the stacks of new threads; to ask for it sets it to that of the system."""
    if size := threading.stack_size():
        threading.stack_size(size)
    return size


def _put_back_interpreter(values: tuple[Any, ...]) -> None:
    recursion, switch, digits, is_collecting, threshold, debug, timeout, is_enabled, *more = values
    sys.setrecursionlimit(recursion)
    sys.setswitchinterval(switch)
    sys.set_int_max_str_digits(digits)
    (gc.enable if is_collecting else gc.disable)()
    gc.set_threshold(*threshold)
    gc.set_debug(debug)
    socket.setdefaulttimeout(timeout)
    hooks, depth, flags, stack = more
    sys.set_asyncgen_hooks(*hooks)
    sys.set_coroutine_origin_tracking_depth(depth)
    sys.setdlopenflags(flags)
    threading.stack_size(stack)
    if is_enabled != faulthandler.is_enabled():
        with suppress(Exception):  # no standard error to write to
            (faulthandler.enable if is_enabled else faulthandler.disable)()


def _read_hooks() -> tuple[Any, ...]:
    return sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()


def _put_back_hooks(hooks: tuple[Any, ...]) -> None:
    sys.settrace(hooks[0])
    sys.setprofile(hooks[1])
    threading.settrace(hooks[2])
    threading.setprofile(hooks[3])


def _read_warnings() -> tuple[Any, ...]:
    return [*warnings.filters], warnings.showwarning, warnings.formatwarning


def _put_back_warnings(kept: tuple[Any, ...]) -> None:
    warnings.filters = [*kept[0]]  # as warnings.catch_warnings does it
    _, warnings.showwarning, warnings.formatwarning = kept
    for name in ("_filters_mutated_lock_held", "_filters_mutated"):
        if mutated := getattr(warnings, name, None):
            with suppress(RuntimeError):  # from Python 3.14 on one of them wants a lock
                return mutated()  # type: ignore[no-any-return]
    return None


def _read_start_method() -> Any:
    return multiprocessing.context._default_context._actual_context  # type: ignore[attr-defined]


def _put_back_start_method(context: Any) -> None:
    multiprocessing.context._default_context._actual_context = context  # type: ignore[attr-defined]


def _read_event_loops() -> tuple[Any, Any]:
    events: Any = sys.modules.get("asyncio.events")
    return (
        (getattr(events, "_event_loop_policy", None), events._get_running_loop())
        if events
        else (None, None)
    )


def _put_back_event_loops(loops: tuple[Any, Any]) -> None:
    """Let the next step find no event loop of this one, nor the mark that there was one, or that
    one is running."""
    events: Any = sys.modules.get("asyncio.events")
    if events:
        events._event_loop_policy, running = loops
        events._set_running_loop(running)


def _read_wakeup() -> int:
    if (descriptor := _signal.set_wakeup_fd(-1)) != -1:
        with suppress(ValueError, OSError):  # it is closed
            _signal.set_wakeup_fd(descriptor)
    return int(descriptor)


def _put_back_wakeup(descriptor: int) -> None:
    """Let no signal write into what has the number of an event loop's socket by then."""
    _signal.set_wakeup_fd(descriptor)


def _is_standard_input_open() -> bool:
    try:
        os.get_inheritable(0)
    except OSError:
        return False
    return True


def _open_standard_input(_: bool) -> None:
    """Let no file of a later step get this descriptor."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing:
        os.dup2(nothing, 0)
        os.close(nothing)


# In this order: what is still to strike goes first, the time zone follows the environment.
ASPECTS = (
    Aspect("timers", _read_timers, _stop_timers, is_of_imports=False),
    Aspect("signal handlers", _read_handlers, _put_back_handlers),
    Aspect("descriptor that signals write to", _read_wakeup, _put_back_wakeup),
    Aspect(
        "blocked signals",
        _read_mask,
        lambda mask: void(signal.pthread_sigmask(signal.SIG_SETMASK, mask)),
    ),
    Aspect("working folder", _read_folder, _put_back_folder),
    Aspect("umask", _read_umask, lambda mask: void(os.umask(mask))),
    Aspect("environment", _read_environment, _put_back_environment),
    Aspect("time zone", _read_time_zone, _put_back_time_zone),
    Aspect("locale", _read_locale, _put_back_locale),
    Aspect("import system", _read_sys_lists, _put_back_sys_lists),
    Aspect("hooks and names of sys", _read_sys_names, _put_back_sys_names),
    Aspect("interpreter", _read_interpreter, _put_back_interpreter),
    Aspect("contexts that decimal copies", _read_decimal_contexts, _put_back_decimal_contexts),
    Aspect("trace and profile functions", _read_hooks, _put_back_hooks),
    Aspect("warning filters", _read_warnings, _put_back_warnings),
    Aspect("start method of multiprocessing", _read_start_method, _put_back_start_method),
    Aspect("event loops", _read_event_loops, _put_back_event_loops),
    Aspect("standard input", _is_standard_input_open, _open_standard_input),
)
OF_PREFORK_ONLY = frozenset({  # solo: the worker's own, of its main
    "timers", "signal handlers", "descriptor that signals write to", "blocked signals",
})  # fmt: skip


def void(_: object) -> None:
    """Drop a value."""
