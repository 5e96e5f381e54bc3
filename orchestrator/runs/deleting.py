"""Deleting runs: what may go and what it frees, the record and the artifacts, and deletions that
were interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.artifacts.faults import StoreUnusable
from orchestrator.artifacts.store import FolderStore
from orchestrator.errors import DeleteRefused
from orchestrator.installation import Installation
from orchestrator.ledger.deleting import Kept
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.states import RunState
from orchestrator.ledger.store_id import recorded_store
from orchestrator.ledger.values import RunUnknown
from orchestrator.runs.finding import RunFilter
from orchestrator.runs.stores import has_store
from orchestrator.settings.model import Settings
from orchestrator.wording import are, listed

SAMPLES = 5  # of the entries of a key, by which the server estimates the rest
INTERRUPTED_S = 600.0  # a deletion that began so long ago is taken for interrupted
_FIELDS = ("state", "pipeline", "created_at", "ended_at", "labels")


@dataclass(frozen=True, slots=True)
class Deletable:
    """A run that may be deleted, with what that frees, in bytes; or, in `refusal`, why not."""

    run_id: str
    pipeline: str
    state: RunState
    ended_at_us: int | None
    redis_bytes: int = 0
    artifact_bytes: int = 0
    files: int = 0
    refusal: str = ""


def ended_runs(ledger: Ledger, wanted: RunFilter, before_us: int) -> Iterator[str]:
    """Yield the runs that are asked for and have ended before that moment, newest first."""
    for run_id, fields in ledger.newest_runs(_FIELDS):
        ended_at_us = int(fields.get("ended_at") or 0)
        if 0 < ended_at_us < before_us and wanted.takes(fields):
            yield run_id


def deletable(
    installation: Installation, run_ids: Iterable[str], *, keeps_artifacts: bool = False
) -> list[Deletable]:
    """Return of each run whether it can be deleted together with the others, and what that frees.
    Runs that have taken over from another one come before it."""
    ledger, files = installation.ledger, FolderStore(installation.settings.artifact_root)
    found = {}
    for run_id in run_ids:
        with suppress(RunUnknown):  # somebody has just deleted it
            found[run_id] = ledger.run_fields(run_id)
    takers = {run_id: ledger.takers(run_id) for run_id in found}
    refused: dict[str, str] = {}
    for run_id, fields in found.items():
        if not RunState(fields["state"]).is_ended:
            refused[run_id] = _open_text(run_id, fields["state"])
        elif stopping := ledger.stopping(run_id):
            refused[run_id] = _stopping_text(run_id, len(stopping))
        elif not keeps_artifacts and not has_store(installation.ledger, installation.settings):
            refused[run_id] = _elsewhere_text(ledger)
    while more := {
        run_id: _taken_text(run_id, kept)
        for run_id in found.keys() - refused.keys()
        if (kept := [run for run in takers[run_id] if run not in found or run in refused])
    }:
        refused |= more
    sizes = {run_id: (0, 0) if keeps_artifacts else files.measure(run_id) for run_id in found}
    return [
        Deletable(
            run_id,
            found[run_id]["pipeline"],
            RunState(found[run_id]["state"]),
            int(found[run_id].get("ended_at") or 0) or None,
            ledger.bytes_of(run_id, SAMPLES),
            *sizes[run_id],
            refused.get(run_id, ""),
        )
        for run_id in _takers_first(found, takers)
    ]


def delete_run(installation: Installation, run_id: str, *, keeps_artifacts: bool = False) -> None:
    """Delete a run: its record, logs, artifacts and checkpoints. Raises DeleteRefused while it has
    not ended or another run needs it, and StoreUnusable when its artifacts cannot be removed; the
    deletion is finished later then."""
    if not keeps_artifacts and not has_store(installation.ledger, installation.settings):
        raise DeleteRefused(_elsewhere_text(installation.ledger))
    ledger = installation.ledger
    answer = ledger.hide(run_id, keeps_artifacts=keeps_artifacts)
    if isinstance(answer, Kept):
        if answer.takers:
            there = [taker for taker in answer.takers if ledger.exists(taker)]
            raise DeleteRefused(
                _taken_text(run_id, there)
                if there
                else f"a rerun of run {run_id} was begun within the last hour"
            )
        if answer.stopping:
            raise DeleteRefused(_stopping_text(run_id, answer.stopping))
        if answer.state:
            raise DeleteRefused(_open_text(run_id, answer.state))
        raise DeleteRefused(f"there is no run {run_id}: somebody has deleted it")
    _erase(ledger, installation.settings, run_id, keeps_artifacts=keeps_artifacts)


def finish_deletions(
    ledger: Ledger, settings: Settings, began_before_us: int
) -> Iterator[tuple[str, str]]:
    """Finish the deletions that began before a moment and are not finished; yield each run, and why
    its deletion cannot be finished here, "" if it was."""
    is_here = has_store(ledger, settings)
    for deletion in ledger.deletions():
        if deletion.began_at_us >= began_before_us:
            continue
        if not deletion.keeps_artifacts and not is_here:
            yield deletion.run_id, _elsewhere_text(ledger)
            continue
        try:
            keeps = deletion.keeps_artifacts or ledger.exists(deletion.run_id)
            _erase(ledger, settings, deletion.run_id, keeps_artifacts=keeps)
            yield deletion.run_id, ""
        except StoreUnusable as error:
            yield deletion.run_id, str(error)


def _erase(ledger: Ledger, settings: Settings, run_id: str, *, keeps_artifacts: bool) -> None:
    if not keeps_artifacts:
        FolderStore(settings.artifact_root).remove(run_id)
    ledger.erase(run_id)


def _takers_first(runs: Iterable[str], takers: dict[str, list[str]]) -> list[str]:
    ordered: dict[str, None] = {}
    ahead = list(reversed(list(runs)))
    while ahead:
        run_id = ahead[-1]
        later = [run for run in takers[run_id] if run in takers and run not in ordered]
        if later:
            ahead += later
        else:
            ordered[ahead.pop()] = None
    return list(ordered)


def _open_text(run_id: str, state: str) -> str:
    return f"run {run_id} is {state}: wait for its end, or end it: orchestrator cancel {run_id}"


def _stopping_text(run_id: str, attempts: int) -> str:
    return f"run {run_id} has ended, but {are(attempts, 'attempt')} still being stopped"


def _taken_text(run_id: str, takers: Sequence[str]) -> str:
    named = listed(takers, 5)
    return f"{named} took over outputs of run {run_id}: delete {named} first, or together with it"


def _elsewhere_text(ledger: Ledger) -> str:
    store = recorded_store(ledger.client, ledger.prefix)
    if not store:
        return "no worker has used an artifact store yet. Delete only the record: --keep-artifacts"
    return (
        f"the artifacts are in {store['folder']} on host {store['host']}, which is not the artifact"
        " folder of this host. Delete there, or only the record: --keep-artifacts"
    )
