"""Functions and exception classes by name: from the object to "module:qualname" and back."""

from __future__ import annotations

import builtins
import importlib
import inspect
import os
import pkgutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.errors import FunctionNotFound, did_you_mean, names_hint
from orchestrator.wording import punctuated


class WrappedFunction:
    """What stands in a module in place of a plain function, which it keeps in `function`."""

    function: Callable[..., Any]


class NoStep:
    """What may stand in a module where a function is expected, but cannot be a step; `hint` says
    what to do."""

    hint = ""


def function_name(function: Callable[..., Any]) -> str:
    """Return the "module:qualname" by which a worker reaches the function.

    Raises FunctionNotFound for lambdas, nested functions, methods of an object and other callables
    without a name.
    """
    if isinstance(function, WrappedFunction):
        function = function.function
    if isinstance(function, NoStep):
        raise FunctionNotFound(f"{function!r} cannot be a step. {function.hint}")
    if not callable(function):
        raise FunctionNotFound(f"{function!r} is not a function.")
    qualname = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if not qualname or not module:
        raise FunctionNotFound(
            f"{function!r} has no name in a module; define a function at module level."
        )
    if "<" in qualname:
        what = "a lambda" if "<lambda>" in qualname else f"function {qualname!r}, which is nested,"
        raise FunctionNotFound(
            f"{what} cannot be reached from a worker; define it at module level."
        )
    if inspect.ismethod(function) and not inspect.isclass(function.__self__):
        raise FunctionNotFound(
            f"{qualname!r} is a method of an object; define a function at module level."
        )
    loaded = sys.modules.get(module)
    if module != "__main__" and loaded is not None and not _is_being_imported(loaded):
        _walk(loaded, module, qualname)
    return f"{_module_name(module)}:{qualname}"


def class_name(cls: type) -> str:
    """Return "ValueError" for a built-in class and "module:Class" for any other."""
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{_module_name(cls.__module__)}:{cls.__qualname__}"


def resolve_function(uses: str) -> Callable[..., Any]:
    """Return the function that "module:function" names ("module:Class.method" too), importing the
    module.

    A step gives the function that it wraps. Raises FunctionNotFound.
    """
    module, colon, qualname = uses.partition(":")
    if not (module and colon and qualname):
        raise FunctionNotFound(f"{uses!r} names no function. Write 'module:function'.")
    found = _walk(_imported(module), module, qualname)
    if isinstance(found, WrappedFunction):
        return found.function
    if isinstance(found, NoStep):
        raise FunctionNotFound(f"{uses!r} cannot be a step. {found.hint}")
    if not callable(found):
        raise FunctionNotFound(f"{uses!r} is {type(found).__name__}, which cannot be called.")
    return found  # type: ignore[no-any-return]


def resolve_class(name: str) -> type:
    """Return the class that `class_name` names so, importing its module. Raises
    FunctionNotFound."""
    module, _, qualname = name.rpartition(":")
    found = _walk(_imported(module or "builtins"), module or "builtins", qualname)
    if not isinstance(found, type):
        raise FunctionNotFound(f"{name!r} is not a class.")
    return found


def resolve_exception(name: str) -> type[BaseException]:
    """Return the exception class that "ValueError", "module:Class" or "module.Class" names.

    Raises FunctionNotFound.
    """
    if ":" in name:
        module, _, qualname = name.partition(":")
        found = _walk(_imported(module), module, qualname)
    elif "." in name:
        module, _, qualname = name.rpartition(".")
        found = _walk(_imported(module), module, qualname)
    else:
        found = getattr(builtins, name, None)
        if found is None:
            known = [key for key, value in vars(builtins).items() if _is_exception(value)]
            raise FunctionNotFound(
                f"{name!r} is not a built-in exception.{did_you_mean(name, known)} "
                "Write 'module:Class' for one of your own."
            )
    if not _is_exception(found):
        raise FunctionNotFound(f"{name!r} is not an exception class.")
    return found  # type: ignore[no-any-return]


def import_root(file: str | os.PathLike[str]) -> Path:
    """Return the folder from which a file is imported: the nearest one without an `__init__.py`."""
    folder = Path(file).resolve().parent
    while (folder / "__init__.py").exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def import_path(file: str | os.PathLike[str] | None, is_script: bool = False) -> str | None:
    """Return the folder that a worker needs on its path for the module in `file`; None when it is
    installed."""
    if not file:
        return None
    path = Path(file).resolve()
    if _is_installed(path):
        return None
    return str(path.parent if is_script else import_root(path))


def _module_name(module: str) -> str:
    """Return the name under which a worker imports the module; for a script that is the name of its
    file."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name and not spec.name.endswith("__main__"):
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else module


def _imported(module: str) -> ModuleType:
    if module.startswith("."):
        raise FunctionNotFound(f"module {module!r} is relative. Write its full name.")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if not (module == missing or module.startswith(missing + ".")):
            raise FunctionNotFound(
                f"module {module!r} cannot be imported:"
                f" {punctuated(error)}{missing_module_hint(missing)}"
            ) from error
        raise FunctionNotFound(
            f"there is no module {missing!r}.{missing_module_hint(missing)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise FunctionNotFound(
            f"module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _walk(module: ModuleType, module_name: str, qualname: str) -> Any:
    found: Any = module
    so_far = f"module {module_name!r}"
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [name for name in dir(found) if not name.startswith("__")]
            hint = did_you_mean(part, known) or names_hint(
                part, (name for name in known if name[0] != "_")
            )
            raise FunctionNotFound(f"{so_far} has no {part!r}.{hint}") from None
        so_far = repr(part)
    return found


def missing_module_hint(name: str) -> str:
    """Return what to say of a module that is not there: a guess, and which environment lacks it.

    A library that nobody has installed resembles some module by chance, so that only a name that is
    nearly the same is worth a guess.
    """
    guess = did_you_mean(name, _neighbours(name), 0.75) or did_you_mean(name, _importable(), 0.85)
    return (
        f"{guess} This environment ({sys.executable}) lacks it: install it there, or correct the"
        " name."
    )


def _neighbours(module: str) -> Iterable[str]:
    """Return the names of modules that stand beside a missing one: in its package, or in the user's
    folders."""
    parent, _, _ = module.rpartition(".")
    if parent:
        folders = list(getattr(sys.modules.get(parent), "__path__", ()))
        return [f"{parent}.{info.name}" for info in pkgutil.iter_modules(folders)]
    own = [folder for folder in sys.path if os.path.isdir(folder) and not _is_installed(folder)]
    return [info.name for info in pkgutil.iter_modules(own)]


def _importable() -> Iterable[str]:
    return [info.name for info in pkgutil.iter_modules()] + list(sys.builtin_module_names)


def _is_installed(path: str | os.PathLike[str]) -> bool:
    installed = [
        Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
    ]
    return any(Path(path).resolve().is_relative_to(folder) for folder in installed)


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
