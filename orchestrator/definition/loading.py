"""Pipelines from where users keep them: `FILE[:NAME]`, where FILE is Python, YAML, JSON or a dotted
module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from orchestrator.definition.builder import PipelineBuilder
from orchestrator.definition.callables import import_path, import_root, missing_module_hint
from orchestrator.definition.document import PipelineFile
from orchestrator.definition.folders import put_on_path
from orchestrator.definition.params import Param, ReadParams
from orchestrator.definition.pipeline import Pipeline
from orchestrator.definition.pipelines import PipelineFunction
from orchestrator.definition.yaml_text import read_json, read_scalar, read_yaml
from orchestrator.errors import PipelineInvalid, did_you_mean, names_hint
from orchestrator.wording import punctuated

_DOCUMENTS = (".yaml", ".yml", ".json")
_FILES = (*_DOCUMENTS, ".py")


class Definition(Protocol):
    """A pipeline before its params are bound, however it was written."""

    @property
    def name(self) -> str:
        """Name of the pipeline."""

    @property
    def description(self) -> str:
        """What the pipeline does, for people."""

    @property
    def params(self) -> Mapping[str, Param]:
        """The declared params, by name."""

    def build(
        self, params: Mapping[str, Any] | None = None, *, pools: Collection[str] | None = None
    ) -> Pipeline:
        """Return the checked pipeline with the params bound to it; raises PipelineInvalid with
        every fault."""


@dataclass(frozen=True)
class LoadedDefinition:
    """What a file or a module holds, and the folder from which its functions are imported. A
    pipeline that was built there already takes no params."""

    source: PipelineFunction | PipelineBuilder | PipelineFile | Pipeline
    import_path: str | None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def description(self) -> str:
        return self.source.description

    @property
    def params(self) -> Mapping[str, Param]:
        return {} if isinstance(self.source, Pipeline) else self.source.params

    def build(
        self, params: Mapping[str, Any] | None = None, *, pools: Collection[str] | None = None
    ) -> Pipeline:
        if isinstance(self.source, Pipeline):
            pipeline = _checked(self.source, params or {}, pools)
        else:
            pipeline = self.source.build(params, pools=pools)
        return replace(pipeline, import_path=self.import_path)


def _checked(
    pipeline: Pipeline, params: Collection[str], pools: Collection[str] | None
) -> Pipeline:
    faults = [
        f"param {name!r} cannot be given: the pipeline was built with its params."
        for name in params
    ]
    for step in pipeline.steps.values():
        pool = step.options.pool
        if pools is not None and pool is not None and pool not in pools:
            faults.append(
                f"step {step.name!r}: there is no pool {pool!r}.{names_hint(pool, pools)}"
            )
    if faults:
        raise PipelineInvalid(pipeline.name, faults)
    return pipeline


def absolute_target(target: str) -> str:
    """Return the target as it is found from any folder; that of a module stays as it is."""
    file, name = _split(target)
    if Path(file).suffix not in _FILES:
        return target
    return f"{os.path.abspath(file)}:{name}" if name else os.path.abspath(file)


def is_there(target: str) -> bool:
    """Whether there is a file or a module to load the target from; its contents are another
    question."""
    file, _ = _split(target)
    if Path(file).suffix in _FILES:
        return Path(file).is_file()
    _put_working_folder_on_path()
    try:
        return importlib.util.find_spec(file) is not None
    except (ImportError, ValueError):
        return False


def load(target: str) -> Definition:
    """Return the definition at `FILE[:NAME]`, or `MODULE[:NAME]`; raises PipelineInvalid.

    Python code is imported from the nearest folder without `__init__.py` (`folders.put_on_path`).
    NAME is a variable or the name of a pipeline, and may be left out when there is only one.
    """
    file, name = _split(target)
    path = Path(file)
    if path.suffix in _DOCUMENTS:
        return _load_document(_existing(path, target), name, target)
    if path.suffix == ".py":
        return _load_python(_existing(path, target), name, target)
    if os.sep in file or path.is_file() or path.is_dir():
        raise PipelineInvalid(
            target, [f"{file!r} is not a pipeline file: those end with .py, .yaml, .yml or .json."]
        )
    _put_working_folder_on_path()
    module = _import(file, target, None)
    return _definition_in(module, name, target, import_path(getattr(module, "__file__", None)))


def parse_params(pairs: Iterable[str], definition: Definition) -> ReadParams:
    """Return the values of `key=value` texts by the types of the params; raises PipelineInvalid
    with every fault.

    They are validated by that, and `build` takes them as they are. A param of type str takes the
    text as it stands; all others read it as YAML or JSON.
    """
    values: dict[str, Any] = {}
    faults = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            faults.append(f"{pair!r} gives no param a value. Write 'name=value'.")
        elif name not in definition.params:
            faults.append(f"there is no param {name!r}.{names_hint(name, definition.params)}")
        elif name in values:
            faults.append(f"param {name!r} is given twice.")
        else:
            try:
                values[name] = _read_text(definition.params[name], text)
            except ValueError as error:
                faults.append(str(error))
    if faults:
        raise PipelineInvalid(definition.name, faults)
    return ReadParams(values)


def read_params(values: Mapping[str, Any], definition: Definition) -> ReadParams:
    """Return the values validated, so that `build` takes them as they are; raises PipelineInvalid
    with every fault."""
    read: dict[str, Any] = {}
    faults = []
    for name, value in values.items():
        if name not in definition.params:
            faults.append(f"there is no param {name!r}.{names_hint(name, definition.params)}")
            continue
        try:
            read[name] = definition.params[name].read(value)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise PipelineInvalid(definition.name, faults)
    return ReadParams(read)


def _read_text(param: Param, text: str) -> Any:
    if param.is_secret:
        return param.read(_secret_text(param.name, text))
    try:
        value = text if param.is_text else read_scalar(text)
    except ValueError:
        value = text
    try:
        return param.read(value)
    except ValueError:
        if isinstance(value, str) and value == text:
            raise
    return param.read(text)  # such as a Literal of digits; else the fault shows what was written


def _secret_text(name: str, text: str) -> str:
    """Return a secret that was given as text, as `@FILE`, or as `@-` on standard input; `@@x`
    stands for the text @x.

    One line break at the end of a file or of standard input is not part of it.
    """
    if not text.startswith("@") or text.startswith("@@"):
        return text.removeprefix("@")
    try:
        read = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "standard input" if text == "@-" else f"the file {text[1:]!r}"
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"param {name!r}: {what} cannot be read: {punctuated(reason)}") from None
    return read.removesuffix("\n").removesuffix("\r")


def _split(target: str) -> tuple[str, str | None]:
    file, colon, name = target.rpartition(":")
    if not colon or os.sep in name or Path(target).exists():
        return target, None
    return file, name or None


def _existing(path: Path, target: str) -> Path:
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        raise PipelineInvalid(target, [f"{str(path)!r} is a folder, not a file."])
    if not path.parent.is_dir():
        above = path.parent.parent
        folders = (
            sorted(entry.name for entry in above.iterdir() if entry.is_dir())
            if above.is_dir()
            else []
        )
        guess = did_you_mean(path.parent.name, folders)
        raise PipelineInvalid(target, [f"there is no folder {str(path.parent)!r}.{guess}"])
    hint = names_hint(path.name, _pipeline_files(path.parent))
    raise PipelineInvalid(target, [f"there is no file {str(path)!r}.{hint}"])


def _load_document(path: Path, name: str | None, target: str) -> Definition:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineInvalid(
            target, [f"{str(path)!r} cannot be read: {punctuated(error)}"]
        ) from None
    value, faults = (read_json if path.suffix == ".json" else read_yaml)(text, target)
    _put_on_path(path.parent)
    document = PipelineFile(value, path.stem, faults)
    if name is not None and name != document.name:
        near = did_you_mean(name, [document.name])
        raise PipelineInvalid(
            target, [f"the file holds the pipeline {document.name!r}, not {name!r}.{near}"]
        )
    return LoadedDefinition(document, str(path.parent))


def _load_python(path: Path, name: str | None, target: str) -> Definition:
    root = import_root(path)
    parts = path.relative_to(root).with_suffix("").parts
    if any("." in part for part in parts):
        raise PipelineInvalid(
            target, [f"{path.name!r} cannot be imported: the name of a module holds no dot."]
        )
    module_name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    _put_on_path(root)
    module = _import(module_name, target, root)
    loaded_from = getattr(module, "__file__", None)
    if loaded_from is None or Path(loaded_from).resolve() != path:
        origin = f"from {loaded_from!r}" if loaded_from else "into Python"
        raise PipelineInvalid(
            target,
            [
                f"module {module_name!r} is loaded {origin} already; give the file {path.name!r}"
                " another name."
            ],
        )
    return _definition_in(module, name, target, str(root))


def _put_working_folder_on_path() -> None:
    if not ({"", os.getcwd()} & set(sys.path)):
        put_on_path(os.getcwd())


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        put_on_path(str(folder))


def _import(name: str, target: str, root: Path | None) -> ModuleType:
    """Import a module of the user's; whatever it raises becomes a fault with the line of theirs."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except PipelineInvalid:
        raise
    except SyntaxError as error:
        place = f"{_shown(error.filename)}:{error.lineno}"
        if not error.filename:
            # of a file with a NUL byte only the line that imports it is known, if there is one
            place = _place_of(error, root) or Path(_split(target)[0]).name
        raise PipelineInvalid(
            target, [f"{place}: {type(error).__name__}: {punctuated(error.msg)}"]
        ) from error
    except (Exception, SystemExit) as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and (name + ".").startswith(error.name + ".")
        ):
            raise PipelineInvalid(target, [_no_module(error.name)]) from None
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            text = f"{punctuated(text)}{missing_module_hint(error.name)}"
        place = _place_of(error, root)
        raise PipelineInvalid(target, [f"{place}: {text}" if place else text]) from error


def _place_of(error: BaseException, root: Path | None) -> str:
    """Return file and line of the user's where an error came from, "" where none had a part in
    it."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not _is_machinery(frame.filename)
    ]
    theirs = [
        frame for frame in frames if root is not None and Path(frame.filename).is_relative_to(root)
    ]
    return "".join(f"{_shown(frame.filename)}:{frame.lineno}" for frame in (theirs or frames)[-1:])


def _no_module(name: str) -> str:
    files = _pipeline_files(Path.cwd())
    stems = [Path(file).stem for file in files if file.endswith(".py")]
    hint = did_you_mean(name, stems) or names_hint(name, files)
    return f"there is no file and no module {name!r}.{hint}"


def _pipeline_files(folder: Path) -> list[str]:
    return sorted(
        file.name for file in folder.iterdir() if file.suffix in _FILES and file.is_file()
    )


def _is_machinery(file: str) -> bool:
    return file.startswith("<frozen") or file == __file__ or file == importlib.__file__


def _shown(file: str | None) -> str:
    """Return a file name relative to the working folder when it lies in it."""
    if not file:
        return "?"
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _definition_in(
    module: ModuleType, name: str | None, target: str, path: str | None
) -> Definition:
    found = {
        variable: value
        for variable, value in vars(module).items()
        if isinstance(value, PipelineFunction | PipelineBuilder | Pipeline)
    }
    by_name = {source.name: source for source in found.values()}
    if name is not None:
        named = found.get(name) or by_name.get(name)
        if named is None:
            hint = did_you_mean(name, {**found, **by_name}) or names_hint(name, found)
            raise PipelineInvalid(
                target, [f"module {module.__name__!r} holds no pipeline {name!r}.{hint}"]
            )
        return LoadedDefinition(named, path)
    own = {
        variable: source
        for variable, source in found.items()
        if not isinstance(source, PipelineFunction) or source.function.__module__ == module.__name__
    }
    candidates = own or found
    if not candidates:
        hint = "Write a function with @pipeline, or a PipelineBuilder."
        raise PipelineInvalid(target, [f"module {module.__name__!r} holds no pipeline. {hint}"])
    different = {id(source) for source in candidates.values()}
    if len(different) > 1:
        held = f"{len(different)} pipelines: {', '.join(candidates)}"
        raise PipelineInvalid(
            target, [f"module {module.__name__!r} holds {held}. Name one, as in FILE:NAME."]
        )
    return LoadedDefinition(next(iter(candidates.values())), path)
