"""Cells of a notebook, run in a real Jupyter kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.place import Place

CELL_LIMIT_S = 120


def run_cells(place: Place, cells: Sequence[str]) -> list[str]:
    """Run cells in a kernel in the place's folder, and return the result of each: as HTML where
    there is some, an error as its text."""
    pytest.importorskip("ipykernel", reason="no Jupyter kernel is installed")
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(place.folder), env=place.environment())
    try:
        return [_outcome(client, cell) for cell in cells]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _outcome(client: Any, cell: str) -> str:
    found: list[str] = []

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "execute_result":
            data = content["data"]
            found.append(data.get("text/html", data["text/plain"]))
        elif message["msg_type"] == "error":
            found.append(content["evalue"])

    client.execute_interactive(cell, output_hook=take, timeout=CELL_LIMIT_S)
    return "".join(found)
