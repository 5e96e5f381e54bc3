"""Which runs can be deleted together, and what becomes of their artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts.marker import write_marker
from orchestrator.cli.health.sizes import check_old_runs
from orchestrator.coordinator.coordinator import InterruptedDeletions
from orchestrator.errors import DeleteRefused
from orchestrator.installation import Installation
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.store_id import record_store
from orchestrator.runs.deleting import (
    INTERRUPTED_S,
    deletable,
    delete_run,
    ended_runs,
    finish_deletions,
)
from orchestrator.runs.finding import RunFilter
from orchestrator.settings.model import Settings
from tests.support.runs import start_graph


@pytest.fixture
def installed(
    ledger: Ledger, chosen: Settings, shared_redis_url: str, tmp_path: Path
) -> Installation:
    """An installation with a server, whose artifact store is here."""
    settings = chosen.model_copy(
        update={"redis_url": shared_redis_url, "artifact_dir": tmp_path / "artifacts"}
    )
    fields = {"id": write_marker(settings.artifact_root), "host": "here", "folder": "/a"}
    record_store(ledger.client, ledger.prefix, fields)
    return Installation(settings, shared_redis_url, ledger, is_embedded=False)


@pytest.fixture
def ended(installed: Installation) -> Callable[..., str]:
    """Return runs that have ended, each with a file; the sources are those that it took over
    from."""

    def make(*sources: str) -> str:
        ledger = installed.ledger
        run_id = start_graph(
            ledger, {"a": ""}, reuses=f"[{', '.join(map(repr, sources))}]".replace("'", '"')
        )
        ledger.cancel(run_id, "enough")
        for source in sources:
            ledger.lend(source, run_id)
        folder = installed.settings.artifact_root / run_id
        folder.mkdir()
        (folder / "a.pickle").write_bytes(bytes(100))
        return run_id

    return make


def test_runs_that_took_over_go_first_and_a_run_that_stays_keeps_all_that_it_needs(
    installed: Installation, ended: Callable[..., str]
) -> None:
    first = ended()
    second = ended(first)
    third = ended(first, second)

    found = deletable(installed, [first, third, second])
    assert [run.run_id for run in found] == [third, second, first]
    assert {run.refusal for run in found} == {""}
    assert {(run.artifact_bytes, run.files) for run in found} == {(100, 1)}

    refusals = {run.run_id: run.refusal for run in deletable(installed, [first, second])}
    assert f"{third} took over outputs of run {second}" in refusals[second]
    assert f"{third} took over outputs of run {first}" in refusals[first]
    with pytest.raises(DeleteRefused, match=f"{third} took over"):
        delete_run(installed, second)
    for run_id in (third, second, first):
        delete_run(installed, run_id)
    assert [path.name for path in installed.settings.artifact_root.iterdir()] == [
        ".orchestrator-store.json"
    ]
    with pytest.raises(DeleteRefused, match="somebody has deleted it"):
        delete_run(installed, first)


def test_runs_are_chosen_by_their_end_and_what_they_are(
    installed: Installation, ended: Callable[..., str]
) -> None:
    run_id, ledger = ended(), installed.ledger
    start_graph(ledger, {"a": ""})
    now_us = ledger.now_us()

    assert list(ended_runs(ledger, RunFilter(), now_us)) == [run_id]
    assert list(ended_runs(ledger, RunFilter("p"), now_us)) == [run_id]
    assert list(ended_runs(ledger, RunFilter("q"), now_us)) == []
    assert list(ended_runs(ledger, RunFilter(), now_us - 60_000_000)) == []


def test_where_the_artifacts_are_not_only_the_record_can_be_deleted(
    installed: Installation, ended: Callable[..., str]
) -> None:
    run_id, root = ended(), installed.settings.artifact_root
    (root / ".orchestrator-store.json").write_text('{"id": "another"}')

    with pytest.raises(DeleteRefused, match="the artifacts are in /a on host here"):
        delete_run(installed, run_id)
    assert "--keep-artifacts" in deletable(installed, [run_id])[0].refusal
    assert deletable(installed, [run_id], keeps_artifacts=True)[0].refusal == ""
    delete_run(installed, run_id, keeps_artifacts=True)

    assert not installed.ledger.exists(run_id)
    assert (root / run_id / "a.pickle").exists()


def test_an_interrupted_deletion_is_finished_with_its_artifacts(
    installed: Installation, ended: Callable[..., str]
) -> None:
    ledger, settings = installed.ledger, installed.settings
    run_id, other, kept = ended(), ended(), ended()
    for hidden, keeps in ((run_id, False), (other, True)):
        ledger.hide(hidden, keeps_artifacts=keeps)
    ledger.client.hset(f"{ledger.prefix}:deleting", kept, '{"at": 1, "keeps_artifacts": false}')

    assert list(finish_deletions(ledger, settings, 1)) == []  # they began later
    finished = dict(finish_deletions(ledger, settings, ledger.now_us() + 1))

    assert finished == {run_id: "", other: "", kept: ""}
    assert ledger.deletions() == []
    assert ledger.exists(kept)  # its deletion had only been noted
    assert {path.name for path in settings.artifact_root.iterdir() if path.is_dir()} == {
        other,
        kept,
    }


def test_a_run_that_somebody_deletes_meanwhile_is_left_out(
    installed: Installation, ended: Callable[..., str]
) -> None:
    run_id = ended()
    assert [run.run_id for run in deletable(installed, ["nobody", run_id])] == [run_id]


def test_the_doctor_says_what_old_runs_would_free_and_which_deletions_were_interrupted(
    installed: Installation, ended: Callable[..., str]
) -> None:
    ledger = installed.ledger
    old, interrupted, _ = ended(), ended(), ended()
    assert list(check_old_runs(installed)) == []

    long_ago = ledger.now_us() - 40 * 86_400_000_000
    ledger.client.hset(ledger.key(old, "run"), "ended_at", long_ago)
    ledger.hide(interrupted)

    deletions, old_runs = check_old_runs(installed)
    assert (deletions.level, old_runs.level) == ("warning", "ok")
    assert deletions.found.startswith("1 deletion of runs began and did not end.")
    assert old_runs.found.startswith("1 run that ended more than 30 days ago could be deleted")
    assert "of artifacts: orchestrator delete --older-than 30d" in old_runs.found
    assert " 100 B of artifacts" in old_runs.found


def test_a_coordinator_finishes_what_was_interrupted_long_ago(
    installed: Installation, ended: Callable[..., str]
) -> None:
    ledger, settings = installed.ledger, installed.settings
    run_id = ended()
    ledger.hide(run_id)
    duty = InterruptedDeletions(ledger, settings)

    duty.do(0)
    assert [deletion.run_id for deletion in ledger.deletions()] == [run_id]  # perhaps at work
    long_ago = ledger.now_us() - round(INTERRUPTED_S * 1e6) - 1
    detail = f'{{"at": {long_ago}, "keeps_artifacts": false}}'
    ledger.client.hset(f"{ledger.prefix}:deleting", run_id, detail)
    duty.do(0)

    assert ledger.deletions() == []
    assert not (settings.artifact_root / run_id).exists()
