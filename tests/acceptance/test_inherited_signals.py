"""What a careless parent does with signals is not what our processes and steps do with them."""

from __future__ import annotations

import signal

import pytest

# Signals 32 and 33 are not among `valid_signals`: `careless` cannot set them. Bit 31 was seen once
# all the same, in the status of a command; its cause is not known.
OF_LIBC = 1 << 31 | 1 << 32
SEEN = "grep -E '^Sig(Blk|Ign)' /proc/self/status"

PIPELINE = f"""
@step
def seen_by_python() -> dict:
    import signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return {{"chld": str(signal.getsignal(signal.SIGCHLD)), "blocked": len(blocked)}}

signals = PipelineBuilder("signals")
signals.add("fails", run="exit 3")
signals.add("seen", run={SEEN!r})
signals.add("seen_by_python", seen_by_python)
signals.add("trains", run="touch trained", needs=["fails"])
"""


def careless() -> None:
    """Ignore and block all that can be ignored and blocked; the command that is started next
    inherits it."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks")
def test_a_run_below_a_careless_parent_is_like_any_other(place):
    file = place.write("careless.py", PIPELINE)
    process = place.start("run", file, "--json", preexec_fn=careless)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 1, err
    record = place.call("show", "last", "--json").json
    steps = record["steps"]
    assert steps["fails"]["state"] == "failed"
    assert "exit code 3" in str(steps["fails"])
    assert steps["trains"]["state"] == "upstream_failed"
    assert not (place.folder / "trained").exists()
    masks = [line.split()[1] for line in steps["seen"]["output"].splitlines()]
    assert {int(mask, 16) & ~OF_LIBC for mask in masks} == {0}
    assert steps["seen_by_python"]["output"] == {"chld": str(signal.SIG_DFL), "blocked": 0}
