"""Runs from Python: a script as a user writes one, a notebook, and a server that others serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.fixtures import WaitUntil
from tests.support.notebook import run_cells
from tests.support.place import Place

CHURN = """
    from orchestrator import pipeline, step

    @step
    def load(rows: int):
        return list(range(rows))

    @step
    def fit(rows, depth):
        print("fitting", depth)
        if depth > 9:
            raise ValueError("too deep")
        return {"score": sum(rows) * depth}

    @pipeline
    def churn(rows: int = 10, depth: int = 2):
        fit(load(rows), depth)
"""
FIRST = """
    run = orchestrator.run(churn, depth=3)
    said(state=run.state, output=run.output("fit"), logs=run.logs("fit"), text=repr(run))
    said(same=orchestrator.open_run(run.run_id[:20]) == run, params=run.params)
    said(steps={name: len(step.attempts) for name, step in run.steps.items()})
    said(html="<td>fit</td>" in run._repr_html_(), first=run.events()[0].kind)
"""
FAILING = """
    try:
        orchestrator.run(churn, depth=12)
    except orchestrator.RunFailed as error:
        said(state=error.state, cause=error.cause)
    (bad,) = orchestrator.list_runs(state="failed")
    again = bad.rerun(depth=1).wait()
    said(again=again.output("fit"), kept=len(again.steps["load"].attempts), rows=bad.params["rows"])
    said(resumed=bad.resume(depth=4).wait(check=True).output("fit"), listed=len(orchestrator.list_runs(pipeline="churn")))
"""
REFUSED = """
    for faulty in (lambda: orchestrator.submit(churn, dept=1), lambda: orchestrator.submit(churn, rows="many"),
                   lambda: orchestrator.open_run("nothing"), lambda: orchestrator.submit(42),
                   lambda: orchestrator.run(churn).output("fti"), lambda: orchestrator.list_runs(state="odd")):
        try:
            faulty()
        except Exception as error:
            said(error=f"{type(error).__name__}: {error}")
"""
WAITING = """
    run = orchestrator.submit("slow.yaml")
    try:
        run.wait(0.5)
    except TimeoutError as error:
        said(late=str(error), state=run.state)
    said(cancelled=run.cancel().state, reason=run.record.cancel_reason)
    orchestrator.close()
    said(after=orchestrator.run(churn).state)
"""


def python(folder: Path, source: str, **variables: str) -> list[dict[str, object]]:
    """Run a script of the user's, and return what it says."""
    head = """
        import json, orchestrator
        from churn import churn

        def said(**what):
            print("said:", json.dumps(what, default=str))

        if __name__ == "__main__":
    """
    (folder / "churn.py").write_text(textwrap.dedent(CHURN))
    (folder / "slow.yaml").write_text("steps: {slow: {run: sleep 600}}\n")
    body = textwrap.indent(textwrap.dedent(source), "    ")
    (folder / "script.py").write_text(textwrap.dedent(head) + body)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**plain_environment(), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("said: ")]
    return [json.loads(line.removeprefix("said: ")) for line in lines]


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "ORCHESTRATOR" not in name}


def test_a_script_runs_a_pipeline_and_looks_at_all_of_it(tmp_path: Path) -> None:
    first, found, steps, shown = python(tmp_path, FIRST)

    assert (first["state"], first["output"]) == ("succeeded", {"score": 135})
    assert first["logs"] == "fitting 3"
    assert str(first["text"]).endswith("of churn: succeeded, 2 of 2 steps ended>")
    assert found == {"same": True, "params": {"rows": 10, "depth": 3}}
    assert steps == {"steps": {"load": 1, "fit": 1}}
    assert shown == {"html": True, "first": "run.created"}


def test_a_run_that_failed_is_rerun_and_resumed_with_other_params(tmp_path: Path) -> None:
    failed, again, resumed = python(tmp_path, FAILING)

    assert failed == {"state": "failed", "cause": "step fit: ValueError: too deep"}
    assert again == {"again": {"score": 45}, "kept": 0, "rows": 10}
    assert resumed == {"resumed": {"score": 180}, "listed": 2}


def test_what_makes_no_sense_is_refused_in_words(tmp_path: Path) -> None:
    errors = [str(said["error"]) for said in python(tmp_path, REFUSED)]

    assert errors[0].startswith("PipelineInvalid: ")
    assert "there is no param 'dept'. Did you mean 'depth'?" in errors[0]
    assert "param 'rows' is 'many', which is not an int." in errors[1]
    assert errors[2].startswith("RunNotFound: there is no run 'nothing'")
    assert "this is not a pipeline. Give one, or where it is: FILE[:NAME]" in errors[3]
    assert "has no step 'fti'. Did you mean 'fit'?" in errors[4]
    assert errors[5].startswith("ValueError: ")


def test_waiting_has_a_limit_and_a_run_can_be_cancelled(tmp_path: Path) -> None:
    late, cancelled, after = python(tmp_path, WAITING)

    assert str(late["late"]).endswith("has not ended within 0.5 s")
    assert late["state"] in ("queued", "running")
    assert cancelled == {"cancelled": "cancelled", "reason": "cancelled from Python"}
    assert after == {"after": "succeeded"}


def test_a_run_that_nobody_waits_for_gets_its_retries(tmp_path: Path) -> None:
    source = """
        import pathlib, time
        pathlib.Path("again.yaml").write_text(
            "steps: {again: {run: 'test -e tried || { touch tried; exit 1; }', retries: 1,"
            " retry_delay: 0.2}}"
        )
        run, began = orchestrator.submit("again.yaml"), time.monotonic()
        while not run.state.is_ended and time.monotonic() - began < 60:
            time.sleep(0.05)
        said(state=run.state, attempts=len(run.steps["again"].attempts))
    """

    assert python(tmp_path, source) == [{"state": "succeeded", "attempts": 2}]


def test_an_interrupt_cancels_the_run_and_leaves_nothing_running(
    place: Place, wait_until: WaitUntil
) -> None:
    place.write("slow.yaml", "steps: {slow: {run: touch begun && sleep 600}}")
    place.write("script.py", "import orchestrator\norchestrator.run('slow.yaml')")
    command = [sys.executable, "script.py"]
    process = subprocess.Popen(
        command,
        cwd=place.folder,
        env=place.environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        wait_until(lambda: (place.folder / "begun").exists())
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert "KeyboardInterrupt" in err
    wait_until(lambda: not place.processes())
    record = place.call("show", "last", "--json").json
    assert (record["state"], record["cancel_reason"]) == ("cancelled", "interrupted")
    assert record["steps"]["slow"]["state"] == "cancelled"


def test_with_a_server_its_workers_run_the_steps(
    tmp_path: Path, place_in, shared_redis_url: str, wait_until: WaitUntil
) -> None:
    variables = {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": f"python-{os.getpid()}",
        "ORCHESTRATOR_ARTIFACT_DIR": str(tmp_path / "artifacts"),
    }
    served = place_in(tmp_path / "served", variables)
    (tmp_path / "code").mkdir()
    with served.start("worker", "--concurrency", "1", stderr=subprocess.DEVNULL) as worker:
        wait_until(lambda: "slots on" in served.call("doctor").out)
        source = """
            said(state=orchestrator.run(churn, labels={"team": "red"}).state)
            said(found=[run.labels for run in orchestrator.list_runs(labels={"team": "red"})])
            said(also=[len(orchestrator.list_runs(label=label, since="1h")) for label in ("team=red", "team=blue")],
                 older=orchestrator.list_runs(before="last"))
        """
        first, second, third = python(tmp_path / "code", source, **variables)
        worker.terminate()

    assert first == {"state": "succeeded"}
    assert second == {"found": [{"team": "red"}]}
    assert third == {"also": [1, 0], "older": []}


NOTEBOOK = [
    "%%writefile steps.py\nfrom orchestrator import step\n@step\ndef double(x):\n    return 2 * x\n",
    "import orchestrator\nfrom orchestrator import pipeline, step\nfrom steps import double\n"
    "@pipeline\ndef twice(x: int = 1):\n    double(double(x))",
    "run = orchestrator.run(twice, x=5)\nrun.output('double-2')",
    "run",
    "@step\ndef here(x):\n    return x + 1\n@pipeline\ndef typed(x: int = 1):\n    here(x)",
    "orchestrator.run(typed)",
    "typed.run_local(x=4).output('here')",
    "orchestrator.close()",
]


def test_a_notebook_runs_pipelines_of_files_and_its_own_cells_locally(place: Place) -> None:
    results = run_cells(place, NOTEBOOK)

    assert results[2] == "20"
    assert "<td>double</td>" in results[3]
    assert "was typed into this session, where no worker finds it" in results[5]
    assert "%%writefile steps.py" in results[5]
    assert results[6] == "5"
