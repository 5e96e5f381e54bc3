"""`orchestrator init`: a small project that runs."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

import click

FILES = {
    "training.py": "training.py",
    "test_training.py": "test_training.py",
    "conftest.py": "conftest.py",
    "config/orchestrator.toml": "orchestrator.toml",
    ".gitignore": "gitignore",
}


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Make a small project that runs.

    It has a pipeline, tests and a config file, in FOLDER (default: this one). No file is replaced.
    """
    if there := [name for name in FILES if (folder / name).exists()]:
        raise click.UsageError(f"{folder} already has {', '.join(there)}. Nothing was written.")
    templates = files("orchestrator.cli").joinpath("project")
    for name, template in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templates.joinpath(f"{template}.template").read_text("utf-8"), "utf-8")
        click.echo(f"wrote {path}")
    steps = [] if folder == Path() else [f"cd {shlex.quote(str(folder))}"]
    steps += ["orchestrator run training.py", "python -m pytest   # pip install pytest"]
    click.echo("\n  ".join(["next:", *steps]))
