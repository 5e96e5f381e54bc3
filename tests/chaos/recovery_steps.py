"""The steps whose recovery is measured: they hold on until somebody ends them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

STUBBORN = "trap '' TERM INT; (trap '' TERM INT; sleep 600 & sleep 600) & sleep 600"


def hold(folder: str) -> None:
    """Tell where it runs, at the first attempt, and hold on; a second attempt ends at once."""
    path = Path(folder)
    if not path.exists():
        path.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
        path.with_suffix(".new").rename(path)
        time.sleep(600)


def hold_with_children(folder: str) -> None:
    """The same, with children and grandchildren that ignore SIGTERM."""
    children = [
        subprocess.Popen(["/bin/sh", "-c", STUBBORN], start_new_session=True) for _ in range(2)
    ]
    hold(folder)
    for child in children:
        child.wait()
