"""Old runs are deleted: only when asked to, never what another run needs, and all of it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.place import Place

LARGE = """
    @step
    def make(n: int):
        print("made")
        return list(range(20_000 + n))

    @step
    def use(numbers, fails: bool):
        if fails:
            from orchestrator import context
            (context.checkpoint_dir / "half").write_text("x")
            raise ValueError("as planned")
        return len(numbers)

    @pipeline
    def large(n: int = 0, fails: bool = False):
        use(make(n), fails)
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, place_in: Callable[..., Place]) -> Place:
    """A place with a run that succeeded, a rerun of it, and one that failed; newest first in
    `ids`."""
    place = place_in(tmp_path_factory.mktemp("deleting") / "place")
    file = place.write("large.py", LARGE)
    assert place.call("run", file).code == 0
    assert place.call("rerun", "last", "--from", "use").code == 0
    assert place.call("run", file, "-p", "fails=true").code == 1
    return place


def ids(place: Place) -> list[str]:
    return [row["run_id"] for row in place.call("runs", "--json").json]


def folders(place: Place) -> set[str]:
    root = place.folder / ".orchestrator" / "artifacts"
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_runs_are_deleted_when_asked_to_and_what_another_one_needs_stays(filled: Place) -> None:
    failed, rerun, first = ids(filled)

    dry = filled.call("delete", "--older-than", "0s")
    assert dry.code == 0
    assert [line.split()[0] for line in dry.out.splitlines()[:3]] == [failed, rerun, first]
    assert "in 2 files)" in dry.out.splitlines()[0]  # an artifact and a checkpoint
    assert dry.out.splitlines()[3].startswith("3 runs, ")
    assert dry.out.endswith("would go. Nothing is deleted yet: add --yes\n")
    assert ids(filled) == [failed, rerun, first]
    assert filled.call("delete", "--older-than", "1h").err == "nothing to delete\n"

    needed = filled.call("delete", first, failed, "--yes")
    assert needed.code == 1
    assert f"kept: {rerun} took over outputs of run {first}: delete {rerun} first" in needed.err
    assert ids(filled) == [rerun, first]
    assert folders(filled) == {first}

    done = filled.call("delete", "--older-than", "0s", "--yes", "--json").json
    assert [row["run_id"] for row in done["runs"]] == [rerun, first]
    assert all(row["redis_bytes"] > 0 and row["refusal"] is None for row in done["runs"])
    assert done["runs"][1]["files"] == 1
    assert (ids(filled), folders(filled)) == ([], set())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Name runs, or say which: --older-than 30d."),
        (("--state", "failed"), "Name runs, or say which: --older-than 30d."),
        (("last", "--older-than", "1d"), "Name runs, or say which by options, not both."),
        (("--older-than", "soon"), "'soon' is not a time."),
        (("nothing",), "RunNotFound: there is no run 'nothing'"),
        (("",), "RunNotFound: an empty text names no run"),
        (("--older-than", "1d", "--state", "running"), "'running' is not one of"),
    ],
)
def test_what_makes_no_sense_deletes_nothing(
    filled: Place, arguments: tuple[str, ...], told: str
) -> None:
    refused = filled.call("delete", *arguments, "--yes")

    assert refused.code == 2
    assert told in refused.err


def test_a_running_run_stays(place: Place, wait_until: Callable[..., None]) -> None:
    file = place.write("slow.yaml", "steps: {slow: {run: touch begun && sleep 600}}")
    with place.start("run", file) as running:
        wait_until((place.folder / "begun").exists)
        refused = place.call("delete", "last", "--yes")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)

    assert refused.code == 1
    assert "is running: wait for its end, or end it: orchestrator cancel" in refused.err
    assert place.call("runs", "--json").json[0]["state"] == "cancelled"


def test_a_deletion_that_was_killed_is_finished_by_the_next_one(
    place: Place, wait_until: Callable[..., None]
) -> None:
    place.write("many.py", LARGE)
    place.write(
        "submit.py",
        """
        import orchestrator
        from many import large

        if __name__ == "__main__":
            for run in [orchestrator.submit(large, n=n) for n in range(40)]:
                run.wait(60)
        """,
    )
    subprocess.run(
        [str(Path(Place.command).with_name("python")), "submit.py"],
        cwd=place.folder,
        env=place.environment(),
        check=True,
    )
    assert len(folders(place)) == 40
    with place.start("delete", "--older-than", "0s", "--yes") as deleting:
        wait_until(lambda: len(folders(place)) < 35)
        deleting.kill()
        deleting.communicate(timeout=60)
    assert folders(place)

    place.call("delete", "--older-than", "0s", "--yes")

    assert folders(place) == set()
    assert place.call("runs", "--json").json == []
    assert "deletions" not in place.call("doctor").out
