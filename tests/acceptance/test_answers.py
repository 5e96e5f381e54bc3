"""Standard output of a command that answers a program holds the answer alone, whatever the user's
code prints."""

from __future__ import annotations

import pytest

NOISY = """
    import atexit, ctypes, logging, os, subprocess, sys, threading

    def make_noise(place):
        print("print", place)
        sys.stdout.write("unfinished " + place)
        sys.__stdout__.write("dunder " + place + "\\n")
        os.write(1, b"descriptor " + place.encode() + b"\\n")
        subprocess.run(["echo", "process", place], check=True)
        ctypes.CDLL(None).puts(b"library " + place.encode())
        ctypes.CDLL(None).fflush(None)
        print("error", place, file=sys.stderr)

    make_noise("import")
    atexit.register(make_noise, "exit")
    noise = threading.Thread(target=make_noise, args=("thread",))
    noise.start()
    noise.join()

    @step
    def one(n: int):
        import pathlib
        if not pathlib.Path("good").exists():
            raise ValueError("not yet")
        return n

    @pipeline
    def noisy(n: int = 1):
        make_noise("build")
        one(n)
"""
SOURCES = ("print", "unfinished", "dunder", "descriptor", "process", "library", "error")


def assert_noise_is_elsewhere(done) -> None:
    for place in ("import", "exit", "thread", "build"):
        for source in SOURCES:
            assert f"{source} {place}" in done.err, (source, place)


def test_run_and_resume_and_plan_print_json_alone(place) -> None:
    file = place.write("noisy.py", NOISY)
    failed = place.call("run", file, "--json")
    (place.folder / "good").touch()
    resumed = place.call("resume", "last", "--json")
    planned = place.call("plan", file, "--json")

    assert (failed.code, resumed.code, planned.code) == (1, 0, 0)
    assert failed.json["state"] == "failed"
    assert resumed.json["steps"]["one"]["output"] == 1
    assert planned.json["steps"] == 1
    for done in (failed, resumed, planned):
        assert_noise_is_elsewhere(done)


@pytest.mark.parametrize("is_json", [True, False])
def test_submit_prints_its_answer_alone(place, shared_redis_url, is_json) -> None:
    place.variables |= {
        "ORCHESTRATOR_REDIS_URL": shared_redis_url,
        "ORCHESTRATOR_KEY_PREFIX": "answers",
    }
    place.variables["ORCHESTRATOR_POOLS"] = '{"cpu": {"queue": "answers-cpu"}}'

    done = place.call("submit", place.write("noisy.py", NOISY), *(["--json"] if is_json else []))

    assert done.code == 0, done.err
    run_id = done.json["run_id"] if is_json else done.out.removesuffix("\n")
    assert place.call("cancel", run_id, "--json").json["run_id"] == run_id
    assert_noise_is_elsewhere(done)


def test_without_json_a_person_sees_what_the_code_prints_where_it_prints_it(place) -> None:
    done = place.call("plan", place.write("noisy.py", NOISY))

    assert "print import" in done.out
    assert "error import" in done.err
