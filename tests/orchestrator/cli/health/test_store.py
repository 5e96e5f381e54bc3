"""What `doctor` says of the artifact store, and how a new one is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifacts.marker import MARKER, write_marker
from orchestrator.cli.health.store import accept_store, check_artifact_folder, check_store
from orchestrator.installation import Installation
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.store_id import record_store
from orchestrator.settings.model import Settings


def session_on(ledger: Ledger, folder: Path, *, is_embedded: bool = False) -> Installation:
    return Installation(Settings(artifact_dir=folder), "redis://somewhere", ledger, is_embedded)


def levels(session: Installation) -> list[str]:
    return [finding.level for finding in check_store(session)]


@pytest.mark.parametrize("marked_here", ["nothing", "another"])
def test_another_folder_than_the_workers_is_a_fault_until_it_is_accepted(
    ledger: Ledger, tmp_path: Path, marked_here: str
) -> None:
    record_store(ledger.client, ledger.prefix, {"id": "first", "host": "h1", "folder": "/shared"})
    if marked_here == "another":
        write_marker(tmp_path)
    session = session_on(ledger, tmp_path)

    (finding,) = check_store(session)
    assert finding.level == "fault"
    assert all(
        word in finding.found for word in (str(tmp_path), "h1", "/shared", "doctor --accept-store")
    )

    accept_store(session)
    assert levels(session) == ["ok"]


def test_looking_marks_nothing_and_the_embedded_server_is_not_bothered(
    ledger: Ledger, tmp_path: Path
) -> None:
    assert levels(session_on(ledger, tmp_path)) == ["ok"]
    assert next(iter(check_artifact_folder(Settings(artifact_dir=tmp_path)))).level == "ok"
    assert not list(tmp_path.iterdir())
    record_store(ledger.client, ledger.prefix, {"id": "first", "host": "h1", "folder": "/shared"})
    assert levels(session_on(ledger, tmp_path, is_embedded=True)) == []


@pytest.mark.parametrize(
    ("garbage", "expected"),
    [
        ({"zz": "1"}, ["ok"]),
        ({"id": ""}, ["ok"]),
        ({"id": "{", "zz": "1"}, ["fault"]),
        ({"id": b"\xff"}, ["fault"]),
    ],
)
def test_a_record_of_the_store_that_nobody_of_ours_wrote_is_read_as_far_as_it_goes(
    ledger: Ledger, tmp_path: Path, garbage: dict[str, str], expected: list[str]
) -> None:
    ledger.client.hset(f"{ledger.prefix}:store", mapping=garbage)

    assert levels(session_on(ledger, tmp_path)) == expected


@pytest.mark.parametrize("kind", ["a file", "below a file", "damaged"])
def test_a_folder_that_cannot_be_used_is_a_fault(ledger: Ledger, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    if kind == "damaged":
        folder.mkdir()
        (folder / MARKER).write_text("no marker")
        record_store(
            ledger.client, ledger.prefix, {"id": "first", "host": "h1", "folder": "/shared"}
        )
        (finding,) = check_store(session_on(ledger, folder))
    else:
        folder.write_text("")
        folder = folder / "below" if kind == "below a file" else folder
        (finding,) = check_artifact_folder(Settings(artifact_dir=folder))

    assert finding.level == "fault"
    assert str(folder) in finding.found
