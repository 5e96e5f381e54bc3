"""A worker starts with the installation's own artifact store only, and only one of each name
runs."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from orchestrator.artifacts.marker import MARKER, read_marker, write_marker
from orchestrator.ledger.store_id import recorded_store
from tests.support.site.site import NewSite, Site


def refused(site: Site, **changes: object) -> str:
    """Return what a worker says that does not start; Celery may warn before of being run as
    root."""
    worker = site._start_worker(1, "workers.app", "prefork", changes)
    site.workers.remove(worker)
    assert worker.process.wait(30) == 2, worker.log
    assert "Traceback" not in worker.log
    (said,) = (
        line
        for line in worker.log.splitlines()
        if line.startswith(("StoreRefused: ", "WorkerNameTaken: "))
    )
    return said


def test_workers_that_do_not_see_the_same_folder_are_refused_in_one_sentence(
    new_site: NewSite, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    site = new_site(artifact_dir=first)
    worker = site.add_worker(slots=1)
    recorded = recorded_store(site.client, site.settings.key_prefix)
    assert recorded == {
        "id": read_marker(first),
        "host": site.card(worker).host,
        "folder": str(first),
    }
    write_marker(second)

    for folder, what in (
        (second, "is another store than"),
        (tmp_path / "third", "does not bear the marker of"),
    ):
        said = refused(site, artifact_dir=folder)
        assert said.startswith(f"StoreRefused: the artifact folder {folder} ")
        assert what in said
        assert str(first) in said
        assert "orchestrator doctor --accept-store" in said
    assert not (tmp_path / "third").exists()  # nothing was marked that was refused
    site.add_worker(slots=1, artifact_dir=first)


def test_a_store_outlives_its_redis_and_may_move_with_its_marker(
    new_site: NewSite, tmp_path: Path
) -> None:
    old, moved = tmp_path / "old", tmp_path / "moved"
    one = new_site(artifact_dir=old)
    one.add_worker(slots=1)
    store_id = read_marker(old)

    other = new_site(artifact_dir=old)  # as after Redis was lost: nobody has recorded a store there
    other.add_worker(slots=1)
    assert recorded_store(other.client, other.settings.key_prefix)["id"] == store_id
    shutil.copytree(old, moved)
    one.add_worker(slots=1, artifact_dir=moved)


@pytest.mark.parametrize("kind", ["a file", "a damaged marker", "below a file"])
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(
    new_site: NewSite, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "folder"
    if kind == "a damaged marker":
        folder.mkdir()
        (folder / MARKER).write_text("{")
    else:
        folder.write_text("")
        folder = folder / "below" if kind == "below a file" else folder

    said = refused(new_site(artifact_dir=folder))

    assert said.startswith("StoreRefused: ")
    assert str(folder) in said


def test_of_many_who_mark_a_folder_at_once_all_get_the_same_id(tmp_path: Path) -> None:
    found: list[str] = []
    barrier = threading.Barrier(16)

    def mark() -> None:
        barrier.wait()
        found.append(write_marker(tmp_path))

    threads = [threading.Thread(target=mark) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 16
    assert set(found) == {read_marker(tmp_path)}
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_a_worker_whose_name_is_taken_is_refused_and_one_that_was_killed_is_followed(
    new_site: NewSite,
) -> None:
    site = new_site()
    worker = site.add_worker(slots=1)
    name = site.card(worker).worker
    site._worker_numbers = iter(["1", "1"])

    said = refused(site)
    assert said.startswith(
        f"WorkerNameTaken: a worker named {name} runs already, as process {worker.process.pid}"
    )

    worker.end()
    site.workers.remove(worker)
    site.add_worker(slots=1)  # though the card of the dead one still counts
