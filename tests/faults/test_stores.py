"""Faults of the host and its artifact store: no step pays for them, and a worker that met one takes
no more steps."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.marker import MARKER
from orchestrator.ledger.presence import present_workers
from orchestrator.record.run import read_record
from orchestrator.runs.reasons import explain
from orchestrator.runs.surroundings import look_around
from tests.support.fixtures import WaitUntil
from tests.support.site.run import Run
from tests.support.site.site import NewSite, Site

STORE_BYTES = 2 * 1024 * 1024
GIVES = """
    def give():
        (FOLDER / f"call-{{context.attempt}}").touch()
        return os.urandom(300_000)

    def take(data):
        return len(data)

    giving = PipelineBuilder("giving")
    given = giving.add("give", give{options})
    giving.add("take", take, args=[given])
"""


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@dataclass
class Store:
    """A real file system of its own, to which harm is done."""

    root: Path
    is_full: bool = False

    def fill(self) -> None:
        with suppress(OSError), (self.root / "ballast").open("wb") as file:
            while file.write(bytes(65536)):
                file.flush()

    def empty(self) -> None:
        (self.root / "ballast").unlink()

    def make_read_only(self) -> None:
        mount("-o", "remount,ro", str(self.root))

    def make_writable(self) -> None:
        mount("-o", "remount,rw", str(self.root))

    def hide(self) -> None:
        """Unmount it: what is seen in its place is a folder of the host's own disk."""
        subprocess.run(["umount", "--lazy", str(self.root)], check=True)

    def move_back(self) -> None:
        mount("--bind", str(self.root.with_name("kept")), str(self.root))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    root, kept = tmp_path / "store", tmp_path / "kept"
    root.mkdir()
    kept.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(kept))
        mount("--bind", str(kept), str(root))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield Store(root)
    for folder in (root, kept):
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def why_text(site: Site, run: Run, step: str) -> str:
    around = look_around(site.ledger, run.run_id)
    return " ".join(
        explain(
            site.ledger, site.settings, read_record(site.ledger, run.run_id), step, around
        ).sentences
    )


HARMS: dict[str, tuple[Callable[[Store], None], Callable[[Store], None], str]] = {
    "full": (Store.fill, Store.empty, "No space left on device"),
    "read-only": (Store.make_read_only, Store.make_writable, "Read-only file system"),
    "not mounted": (Store.hide, Store.move_back, "Is the folder mounted?"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_store_that_cannot_be_used_costs_the_step_nothing(
    new_site: NewSite, store: Any, wait_until: WaitUntil, harm: str
) -> None:
    do_harm, undo, why = HARMS[harm]
    site = new_site(artifact_dir=store.root)
    worker = site.at_work(slots=1)
    do_harm(store)

    run = site.submit(GIVES.format(options=", retries=0, lost_attempts=2"))

    wait_until(lambda: run.events("attempt.put_back"))
    wait_until(lambda: (card := site.card(worker)) and not card.queues)
    card = site.card(worker)
    assert why in card.fault
    assert str(store.root) in card.fault
    assert card.paused_queues == (site.queue,)
    wait_until(lambda: run.state("give") == "queued")
    told = why_text(site, run, "give")
    assert "No healthy worker serves that pool." in told
    assert why in told
    undo(store)

    record = run.ended()
    assert record.state == "succeeded", run.story()
    assert {attempt.outcome for attempt in record.steps["give"].attempts[:-1]} == {"put_back"}
    assert run.events("attempt.put_back")[0].fields["host"] == card.host
    wait_until(
        lambda: (card := site.card(worker)) and card.queues == (site.queue,) and not card.fault
    )
    assert site.value(record, "take") == 300_000


def test_a_step_that_may_never_run_twice_fails_and_names_the_store(
    new_site: NewSite, store: Any
) -> None:
    site = new_site(artifact_dir=store.root)
    site.at_work(slots=1)
    store.fill()

    run = site.submit(GIVES.format(options=", retries=3, lost_attempts=1"))

    record = run.ended()
    assert record.state == "failed"
    (attempt,) = record.steps["give"].attempts
    assert str(store.root) in attempt.error.message
    assert "No space left on device" in attempt.error.message
    assert len(list(run.folder.glob("call-*"))) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_an_input_that_cannot_be_read_is_no_fault_of_its_reader(
    new_site: NewSite, store: Any, wait_until: WaitUntil, pool: str
) -> None:
    site = new_site(artifact_dir=store.root)
    site.at_work(slots=1, pool=pool)
    run = site.submit("""
        def give():
            return os.urandom(300_000)

        def hold():
            note("holds")
            wait_for("go")

        def take(data, held):
            return len(data)

        reading = PipelineBuilder("reading")
        given = reading.add("give", give)
        held = reading.add("hold", hold, needs=["give"])
        reading.add("take", take, args=[given, held], lost_attempts=1)
    """)
    run.wait_for_note("holds")
    store.hide()
    run.note("go")

    wait_until(lambda: run.events("attempt.put_back", "take"))
    store.move_back()

    record = run.ended()
    # it had not begun, so that it could go back with lost_attempts=1
    assert record.state == "succeeded", run.story()
    assert site.value(record, "take") == 300_000


def test_an_artifact_that_is_gone_from_a_good_store_fails_its_reader(
    new_site: NewSite, store: Any
) -> None:
    site = new_site(artifact_dir=store.root)
    site.at_work(slots=1)
    run = site.submit("""
        import shutil

        def give():
            return os.urandom(300_000)

        def lose():
            for file in pathlib.Path(os.environ["ORCHESTRATOR_ARTIFACT_DIR"]).glob("*/give.*"):
                file.unlink()

        def take(data, lost):
            return len(data)

        losing = PipelineBuilder("losing")
        given = losing.add("give", give)
        lost = losing.add("lose", lose, needs=["give"])
        losing.add("take", take, args=[given, lost])
    """)

    record = run.ended()
    assert record.steps["take"].state == "failed"
    assert record.steps["take"].attempts[0].error.type.endswith("ArtifactMissing")
    assert not run.events("attempt.put_back")


@pytest.mark.parametrize(
    "raising",
    [
        'raise OSError(28, "No space left on device")',
        'pathlib.Path("/dev/full").write_text("x")',
        "raise PermissionError(13, \"Permission denied\", str(context.checkpoint_dir / 'x'))",
        'context.checkpoint_dir; raise OSError(28, "No space left on device")',
    ],
)
def test_an_error_of_the_users_own_code_is_the_users(shared: Site, raising: str) -> None:
    run = shared.submit(f"""
        def work():
            {raising}

        failing = PipelineBuilder("failing")
        failing.add("work", work)
    """)

    record = run.ended()
    assert record.state == "failed"
    assert [attempt.outcome for attempt in record.steps["work"].attempts] == ["failed"]
    assert all(card.queues for card in present_workers(shared.client, shared.settings.key_prefix))


def test_a_checkpoint_that_does_not_fit_is_the_stores_fault(
    new_site: NewSite, store: Any, wait_until: WaitUntil
) -> None:
    site = new_site(artifact_dir=store.root)
    site.at_work(slots=1)
    run = site.submit("""
        def work():
            folder = context.checkpoint_dir
            if is_noted("mended"):
                return
            with open(folder / "model", "wb") as file:
                while True:
                    file.write(bytes(65536))

        saving = PipelineBuilder("saving")
        saving.add("work", work, retries=0)
    """)
    wait_until(lambda: run.events("attempt.put_back"))
    run.note("mended")
    for file in store.root.glob("*/*.checkpoints/model"):
        file.unlink()
    mount("-o", f"remount,size={32 * STORE_BYTES}", str(store.root.with_name("kept")))

    assert run.ended().state == "succeeded", run.story()


def test_one_bad_host_does_not_poison_its_pool(
    new_site: NewSite, store: Any, wait_until: WaitUntil, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    site = new_site(artifact_dir=good)
    site.add_worker(slots=1)
    # the same store for all that can be seen, on another disk
    shutil.copy(good / MARKER, store.root / MARKER)
    bad = site.at_work(slots=2, artifact_dir=store.root)
    store.fill()

    run = site.submit("""
        def give(number):
            time.sleep(0.05)
            return os.urandom(10_000)

        wide = PipelineBuilder("wide")
        for number in range(40):
            wide.add(f"give-{number}", give, args=[number], retries=0)
    """)

    record = run.ended()
    assert record.state == "succeeded", run.story()
    assert {event.fields["worker"] for event in run.events("attempt.put_back")} == {
        site.card(bad).worker
    }
    # what it had in hand, and what it was just taking
    assert len(run.events("attempt.put_back")) <= 4
    assert site.card(bad).queues == ()
