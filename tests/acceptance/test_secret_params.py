"""Secret params on the command line: how they are given, asked for again, and never shown."""

from __future__ import annotations

import os
import pty

import pytest

TOKEN = "open-sesame-4711"

PIPELINE = """
    from orchestrator import Secret

    @step
    def keep(token):
        print("kept", token)
        return {"bearer": token}

    @step
    def use(given, token):
        import pathlib
        print("token is", token, "was", given["bearer"])
        if not pathlib.Path("good").exists():
            raise ValueError(f"refused {token}")
        return len(token)

    @pipeline
    def guarded(token: Secret[str], rows: int = 1):
        use(keep(token), token)
"""

YAML = """
    params:
      token: {secret: true, description: for the store}
    steps:
      use: {run: 'test "$(printf %s "${{ params.token }}" | wc -c)" -eq 16; echo "it is ${{ params.token }}"'}
"""


def test_a_secret_is_asked_for_again_and_nothing_shows_it(place) -> None:
    file = place.write("guarded.py", PIPELINE)
    (place.folder / "token").write_text(TOKEN + "\n")

    missing = place.call("run", file)
    failed = place.call("run", file, "-p", "token=@token")
    refused = place.call("resume", "last")
    (place.folder / "good").touch()
    (place.folder / "token").write_text("another-sesame")
    resumed = place.call("resume", "last", "-p", "token=@token", "--json")
    looks = [
        place.call(*words)
        for words in (["show", "last", "--json"], ["events", "last", "--json"], ["logs", "last"])
    ]

    assert missing.code == refused.code == 2
    assert (
        "param 'token' is a secret and missing; it has no default. Give it as -p token=@FILE"
        in missing.err
    )
    assert (
        "param 'token' cannot be used again: it is a secret, of which nothing is kept"
        in refused.err
    )
    assert "Give it as -p token=@FILE, or as -p token=@- on standard input" in refused.err
    assert (failed.code, resumed.code) == (1, 0), failed.err + resumed.err
    assert "ValueError: refused ***" in failed.out
    assert resumed.json["params"] == {"token": "***", "rows": 1}
    assert resumed.json["steps"]["keep"]["output"] == {"bearer": "***"}
    assert resumed.json["steps"]["use"]["output"] == len("another-sesame")
    assert "other_arguments" not in resumed.json["steps"]["keep"]
    assert "kept ***" in looks[2].out
    for done in (missing, failed, refused, resumed, *looks):
        assert "sesame" not in done.out + done.err


def test_a_rerun_asks_for_a_secret_again_and_what_it_takes_over_has_the_new_one(place) -> None:
    file = place.write("guarded.py", PIPELINE)
    (place.folder / "good").touch()
    (place.folder / "token").write_text(TOKEN)
    first = place.call("run", file, "-p", "token=@token", "--json")
    (place.folder / "token").write_text("another-sesame")

    refused = place.call("rerun", "last", "--from", "use")
    done = place.call("rerun", "last", "--from", "use", "-p", "token=@token", "--json")
    log = place.call("logs", done.json["run_id"], "use")
    looks = [
        place.call(*words)
        for words in (["show", "last", "--json"], ["events", "last", "--json"], ["verify", "last"])
    ]

    assert (first.code, refused.code, done.code) == (0, 2, 0), done.err
    assert (
        "param 'token' cannot be used again: it is a secret, of which nothing is kept"
        in refused.err
    )
    assert "Give it as -p token=@FILE" in refused.err
    assert done.json["params"] == {"token": "***", "rows": 1}
    assert done.json["steps"]["keep"]["attempts"] == []
    assert done.json["steps"]["keep"]["output"] == {"bearer": "***"}
    assert done.json["steps"]["use"]["output"] == len("another-sesame")
    assert "token is *** was ***" in log.out
    assert [look.code for look in looks] == [0, 0, 0]
    for each in (first, refused, done, log, *looks):
        assert "sesame" not in each.out + each.err


def test_a_secret_that_the_pipeline_no_longer_has_keeps_no_step_that_needs_it(place) -> None:
    file = place.write("guarded.py", PIPELINE)
    (place.folder / "good").touch()
    (place.folder / "token").write_text(TOKEN)
    assert place.call("run", file, "-p", "token=@token").code == 0
    place.write("guarded.py", PIPELINE.replace("token: Secret[str]",
    "password: Secret[str]").replace(
        "use(keep(token), token)", "use(keep('public-text'), password)"
    ))  # fmt: skip

    done = place.call("rerun", "last", "--from", "use", "-p", "password=@token", "--json")

    assert done.code == 0, done.err
    assert "run again, since they are called or wired otherwise now: keep" in done.err
    assert done.json["steps"]["keep"]["output"] == {"bearer": "public-text"}
    assert TOKEN not in done.out + done.err


def test_a_param_that_is_no_secret_any_more_keeps_no_step_that_had_it(place) -> None:
    file = place.write("guarded.py", PIPELINE)
    (place.folder / "good").touch()
    (place.folder / "token").write_text(TOKEN)
    assert place.call("run", file, "-p", "token=@token").code == 0
    place.write("guarded.py", PIPELINE.replace("token: Secret[str]", "token: str"))

    done = place.call("rerun", "last", "-p", "token=public-text", "--json")

    assert done.code == 0, done.err
    assert done.json["steps"]["keep"]["output"] == {"bearer": "public-text"}
    assert TOKEN not in done.out + done.err


def test_a_file_of_yaml_may_declare_one_and_standard_input_give_it(place) -> None:
    file = place.write("guarded.yaml", YAML)
    with place.start("run", file, "-p", "token=@-", "--json", stdin=-1) as process:
        out, err = process.communicate(TOKEN + "\n", timeout=60)

    assert process.returncode == 0, err
    assert '"output": "it is ***"' in out
    assert TOKEN not in out + err


@pytest.mark.parametrize("is_answered", [True, False])
def test_at_a_terminal_a_secret_that_is_missing_is_asked_for_without_showing_it(
    place, is_answered
) -> None:
    file = place.write("guarded.yaml", YAML)
    ours, theirs = pty.openpty()
    try:
        with place.start(
            "run", file, "--json", stdin=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            said = ""
            while "token (secret)" not in said:
                said += os.read(ours, 1024).decode()
            os.write(ours, (TOKEN + "\n" if is_answered else "\x04").encode())
            out, _ = process.communicate(timeout=120)
            while data := _rest(ours):
                said += data
    finally:
        os.close(ours)

    assert process.returncode == (0 if is_answered else 1), said
    assert ("it is ***" in out) == is_answered
    assert TOKEN not in said + out


def _rest(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # nobody is at its other end
        return ""
