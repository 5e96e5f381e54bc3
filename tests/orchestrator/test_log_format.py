"""A record of the log as a line for collectors."""

from __future__ import annotations

import json
import logging
import sys

from orchestrator.log_format import JsonLines


def test_a_record_is_one_line_whatever_it_says() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord(
            "a.b", logging.ERROR, "f.py", 1, "it is %s\n%s", ("so", object), sys.exc_info()
        )

    line = JsonLines().format(record)

    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == (
        "ERROR",
        "a.b",
        f"it is so\n{object}",
    )
    assert told["exception"].endswith("ValueError: first\nsecond")
    assert told["time"].endswith("+00:00")
