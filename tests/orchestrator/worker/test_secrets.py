"""Secret params: steps get them, people do not, and nothing of them is left when the run has
ended."""

from __future__ import annotations

import json
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from orchestrator.attempt_id import AttemptId
from orchestrator.cli.summary import summary_text
from orchestrator.definition.loading import load
from orchestrator.local.worker import LocalWorker
from orchestrator.record.as_json import record_json
from orchestrator.record.run import RunRecord, read_record
from orchestrator.worker.log_lines import LINE_CHARS
from orchestrator.worker.log_shipment import Shipment
from orchestrator.worker.masking import Masks
from tests.support.fixtures import PipelineFrom, WaitUntil
from tests.support.worker_runs import Runs

TOKEN = 's3cr3t of the "house" é漢'
KEY = "-----BEGIN KEY-----\nMIIBVwIBADANBgkqh\n-----END KEY-----"

USES = """
    import logging, os, subprocess, sys, time, pathlib
    from orchestrator import Secret, context

    @step(retries=1)
    def use(token, key, given, gate):
        assert type(token) is str and token == pathlib.Path(gate, "token").read_text(), token
        assert given == {"auth": [token], "text": 1}
        print("printed", token)
        print("key", key)
        half = len(token) // 2
        for part in ("in ", token[:half], token[half:], " pieces\\n"):
            sys.stdout.write(part)
            sys.stdout.flush()
            time.sleep(0.02)
        data = token.encode()
        for at in range(len(data)):
            os.write(1, data[at : at + 1])
        os.write(1, b" by bytes\\n")
        subprocess.run(["sh", "-c", 'echo "process $1"; echo "error $1" >&2', "sh", token], check=True)
        logging.getLogger("my").warning("logged %s", token)
        try:
            raise KeyError(token)
        except KeyError:
            logging.getLogger("my").exception("caught %s", token)
        pathlib.Path(gate, "waits").touch()
        while not pathlib.Path(gate, "go").exists():
            time.sleep(0.01)
        if context.attempt == 1:
            error = ValueError(f"refused: {token}")
            error.add_note(f"note of {token}")
            raise error from RuntimeError(token)
        return {"auth": f"Bearer {token}", token: [token, "plain"]}

    @step
    def read(given, token):
        assert given == {"auth": f"Bearer {token}", token: [token, "plain"]}, given
        print("read", given["auth"])
        return given["auth"].removeprefix("Bearer ")

    @step
    def again(text, token):
        assert text == token
        return len(text)

    @pipeline
    def uses(token: Secret[str], key: Secret[str], gate: str, other: Secret[str] | None = None):
        assert other is None
        used = use(token, key, {"auth": [token], "text": 1}, gate)
        again(read(used, token), token)
"""


def on_the_server(client: Redis) -> dict[str, str]:
    """Return all that a server holds, by key, as text."""
    found = {}
    for key in client.scan_iter(count=1000):
        match client.type(key):
            case "string":
                value = [client.get(key)]
            case "hash":
                value = client.hgetall(key)
            case "list":
                value = client.lrange(key, 0, -1)
            case "set":
                value = client.smembers(key)
            case "zset":
                value = client.zrange(key, 0, -1)
            case "stream":
                value = client.xrange(key)
            case _:
                continue
        found[key] = json.dumps(
            list(value.items()) if isinstance(value, dict) else list(value), ensure_ascii=False
        )
    return found


def assert_unknown(texts: dict[str, str]) -> None:
    for secret in (TOKEN, *KEY.splitlines()):
        escaped = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
        for form in (secret, *escaped, repr(secret)[1:-1]):
            holders = [
                name
                for name, text in texts.items()
                if form in text or json.dumps(form)[1:-1] in text
            ]
            assert not holders, (form, holders)


@pytest.fixture(scope="module")
def used(
    runs: Runs,
    worker: LocalWorker,
    celery_events: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    wait_until: WaitUntil,
) -> tuple[str, RunRecord, dict[str, str], str]:
    """A run with secrets that failed once, with what the server held while it went on."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "token").write_text(TOKEN)
    (folder / "uses_secrets.py").write_text(
        "from orchestrator import pipeline, step\n" + textwrap.dedent(USES)
    )
    pipeline = load(str(folder / "uses_secrets.py")).build(
        {"token": TOKEN, "key": KEY, "gate": str(folder)}
    )
    run_id = runs.submit(pipeline)
    wait_until((folder / "waits").exists)
    during = on_the_server(runs.ledger.client)
    kept_apart = during.pop(runs.ledger.key(run_id, "secret"))
    (folder / "go").touch()
    runs.wait(run_id)
    return run_id, read_record(runs.ledger, run_id), during, kept_apart


def test_steps_get_the_text_through_retries_and_as_part_of_other_values(
    used: tuple[str, RunRecord, dict[str, str], str],
) -> None:
    _, record, *_ = used

    assert {name: step.state.value for name, step in record.steps.items()} == dict.fromkeys(
        ("use", "read", "again"), "succeeded"
    ), [step.attempts[-1].error for step in record.steps.values()]
    assert [attempt.outcome.value for attempt in record.steps["use"].attempts] == [
        "failed",
        "succeeded",
    ]


def test_a_secret_is_in_one_key_while_the_run_goes_on_and_nowhere_afterwards(
    runs: Runs, used: tuple[str, RunRecord, dict[str, str], str]
) -> None:
    run_id, _, during, kept_apart = used

    with pytest.raises(AssertionError):  # it is found where it is
        assert_unknown({"secret": kept_apart})
    assert_unknown(during)
    assert not runs.ledger.client.exists(runs.ledger.key(run_id, "secret"))
    assert_unknown(on_the_server(runs.ledger.client))


def test_what_people_see_is_masked(
    used: tuple[str, RunRecord, dict[str, str], str],
    worker: LocalWorker,
    celery_events: list[dict[str, Any]],
) -> None:
    _, record, *_ = used
    shown = json.dumps(record_json(record), ensure_ascii=False)

    assert record_json(record)["params"] | {"gate": ""} == {
        "token": "***",
        "key": "***",
        "gate": "",
        "other": None,
    }
    assert record_json(record)["steps"]["use"]["arguments"]["args"][:3] == [
        "***", "***", {"auth": ["***"], "text": 1}
    ]  # fmt: skip
    assert record_json(record)["steps"]["use"]["output"] == {
        "auth": "Bearer ***",
        "***": ["***", "plain"],
    }
    assert record_json(record)["steps"]["read"]["output"] == "***"
    error = record.steps["use"].attempts[0].error
    assert error.message == "refused: ***"
    assert "note of ***" in error.traceback
    assert "RuntimeError: ***" in error.traceback
    assert_unknown(
        {
            "show": shown,
            "summary": summary_text(record, {}),
            "celery": json.dumps(celery_events, default=str, ensure_ascii=False),
            "worker's log": Path(worker.log_path).read_text(errors="replace"),
        }
    )


def test_logs_are_masked_in_whatever_pieces_they_are_written(
    runs: Runs, used: tuple[str, RunRecord, dict[str, str], str]
) -> None:
    _, record, *_ = used
    lines = runs.log(record, "use")

    for line in ("printed ***", "in *** pieces", "*** by bytes", "process ***", "error ***"):
        assert line in lines, lines
    assert any(line.endswith("WARNING my: logged ***") for line in lines)
    assert any(line.endswith("ERROR my: caught ***") for line in lines)
    assert [line for line in lines if "KEY-----" in line or "MIIBV" in line] == []
    assert "read Bearer ***" in runs.log(record, "read")


DIES = """
    import os, signal, time
    from orchestrator import Secret

    @step(lost_attempts=1)
    def die(token):
        print("last words", token, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    @step(timeout=0.5)
    def linger(token):
        print("lingers", token, flush=True)
        time.sleep(60)

    @pipeline
    def dies(token: Secret[str]):
        die(token)
        linger(token)
"""


def test_the_last_words_of_a_process_that_dies_are_masked_too(
    runs: Runs, pipeline_from: PipelineFrom
) -> None:
    record = runs.run(pipeline_from(DIES, {"token": TOKEN}))

    assert [record.steps[name].attempts[0].outcome.value for name in ("die", "linger")] == [
        "lost",
        "timed_out",
    ]
    assert runs.log(record, "die") == ["last words ***"]
    assert runs.log(record, "linger")[0] == "lingers ***"
    assert_unknown(on_the_server(runs.ledger.client))


OTHER = """
    import pathlib

    @step
    def look(path):
        print("saw", pathlib.Path(path).read_text())

    @pipeline
    def other(path: str):
        look(path)
"""


def test_the_next_run_in_that_process_knows_nothing_of_it(
    runs: Runs,
    used: tuple[str, RunRecord, dict[str, str], str],
    pipeline_from: PipelineFrom,
    tmp_path: Path,
) -> None:
    (tmp_path / "text").write_text(TOKEN)  # it is only masked where it is known

    records = [runs.run(pipeline_from(OTHER, {"path": str(tmp_path / "text")})) for _ in range(4)]

    assert [runs.log(record, "look") for record in records] == [[f"saw {TOKEN}"]] * 4
    for record in records:
        runs.ledger.client.delete(
            *runs.ledger.client.keys(runs.ledger.key(record.run_id, "*").replace("[", "\\["))
        )


# -- masks -----------------------------------------------------------------------------------------


class _Lines:
    def __init__(self) -> None:
        self.kept: list[str] = []

    def append_log(self, *given: Any, before: int = 0) -> bool:
        self.kept += given[2]
        return True


@given(
    secret=st.text(
        st.characters(exclude_characters="\n\r*", exclude_categories=["Cs"]),
        min_size=6,
        max_size=40,
    ),
    before=st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=20),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    times=st.integers(1, 3),
)
def test_no_cut_of_the_bytes_lets_a_secret_through(
    secret: str, before: str, cuts: list[int], times: int
) -> None:
    data, lines = (f"{before}{secret}" * times + "\n").encode(), _Lines()
    shipment = Shipment(lines, 1000, AttemptId("r", "s", 1), 1, Masks([secret]))  # type: ignore[arg-type]
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in pairwise(places):
        shipment.add(data[begin:end])
    shipment.end()

    assert secret not in "\n".join(lines.kept)


@pytest.mark.parametrize("length", [6, 7, 100])
@pytest.mark.parametrize("room", [0, 1, 3, 5, 99, LINE_CHARS])
def test_a_line_that_is_cut_shows_no_beginning_of_a_secret(length: int, room: int) -> None:
    secret, lines = "".join(chr(65 + at % 26) for at in range(length)), _Lines()
    shipment = Shipment(lines, 10, AttemptId("r", "s", 1), 1, Masks([secret]))  # type: ignore[arg-type]
    shipment.add(
        secret * (room // length)
        + "." * (LINE_CHARS - room)
        + secret * (3 * LINE_CHARS // length)
        + "\n"
    )
    shipment.end()

    (line,) = lines.kept
    kept = line.partition("…")[0]
    assert len(kept) <= LINE_CHARS
    assert kept.strip(".*") == ""


def test_short_secrets_mask_nothing_and_of_nested_ones_the_longest_goes_first() -> None:
    assert Masks(["ab", "12345"])("ab 12345") == "ab 12345"
    assert Masks(["secret", "secret-one"])("secret-one secret") == "*** ***"
    assert Masks([KEY])(f"x {KEY} y\n{KEY.splitlines()[1]}") == "x *** y\n***"


def test_a_run_with_many_secrets_costs_each_line_little(cpu_growth: Any) -> None:
    """Twice the text takes no more than 2.5 times the CPU time."""
    masks = Masks([f"secret number {number}" for number in range(20)])
    text = "a line of a log without any of them " * 3

    def mask(lines: int) -> None:
        for _ in range(lines):
            masks(text)

    assert cpu_growth(lambda: mask(100_000), lambda: mask(200_000)) <= 2.5
