"""Who releases, cancels or resumes a wide run dies between two pages: a coordinator does the rest."""

from __future__ import annotations

import signal
import subprocess
import sys

from orchestrator.record.verification import verify_run
from tests.support.site.run import Run
from tests.support.site.site import Site

WIDE = """
    @step
    def root():
        return 1

    @step
    def work(value):
        return value

    @step(trigger="all_done")
    def end():
        return "done"

    @pipeline
    def wide():
        value = root()
        end().after(*[work.options(name=f"work-{number}")(value) for number in range(WIDTH)])
"""
CALLER = """
import sys
from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger
url, prefix, run_id, what = sys.argv[1:]
ledger, pages = Ledger(connect(url), prefix), 0
call = ledger._call

def dying(run_id, *args):
    global pages
    answer = call(run_id, *args)
    if args[0] in ("cancel", "resume"):
        pages += 1
        print(pages, flush=True)
        sys.stdin.read()
    return answer

ledger._call = dying
if what == "cancel":
    ledger.cancel(run_id, "by the test")
else:
    steps = list(ledger.entries(run_id))
    ledger.resume(run_id, [(step, 0) for step in steps])
"""


def kill_after_first_page(site: Site, run: Run, what: str) -> None:
    """Let a process begin to cancel or to resume the run, and kill it after the first page."""
    words = [site.settings.redis_url, site.ledger.prefix, run.run_id, what]
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "1\n"
        caller.send_signal(signal.SIGKILL)


def test_a_cancel_and_a_resume_that_were_begun_are_finished(site: Site) -> None:
    run = site.submit(WIDE.replace("WIDTH", "2000"))
    kill_after_first_page(site, run, "cancel")
    assert site.ledger.run_fields(run.run_id)["state"] == "cancelling"
    assert verify_run(site.ledger, run.run_id).violations == ()
    site.start_coordinator()

    assert run.ended().state == "cancelled"
    assert verify_run(site.ledger, run.run_id).violations == ()

    kill_after_first_page(site, run, "resume")
    assert site.ledger.run_fields(run.run_id)["state"] == "resuming"
    assert verify_run(site.ledger, run.run_id).violations == ()
    run.wait_for("root", "queued")
    assert verify_run(site.ledger, run.run_id).violations == ()


def test_what_a_killed_worker_has_not_released_is_released(site: Site) -> None:
    """The child that commits the root is killed while it goes on with the front."""
    doomed = site.add_worker(slots=1)
    run = site.submit(WIDE.replace("WIDTH", "6000"))
    front = site.ledger.key(run.run_id, "front")
    run.wait(lambda _: site.ledger.client.exists(front))
    doomed.kill()
    assert site.ledger.client.exists(front)
    assert verify_run(site.ledger, run.run_id).violations == ()
    site.start_coordinator()

    run.wait(lambda record: [step.state for step in record.steps.values()].count("waiting") == 1)

    run.wait(lambda _: not site.ledger.client.exists(front))
    assert verify_run(site.ledger, run.run_id).violations == ()
    site.ledger.cancel(run.run_id, "by the test")
    assert verify_run(site.ledger, run.run_id).violations == ()
