"""How services log: lines for people, or one JSON object a line for collectors (setting
`log_format`)."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object without line breaks: time (RFC 3339, UTC), level, logger,
    message, process, and exception with its traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logging(log_format: str, level: str) -> None:
    """Let this process log to its standard error; warnings of Python, too, where a collector
    reads."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler])
    if log_format == "json":
        logging.captureWarnings(True)


def format_all(logger: logging.Logger | None = None, **_: Any) -> None:
    """Let every handler of a logger that Celery has set up, the root's if None, write lines of
    JSON."""
    for handler in (logger or logging.getLogger()).handlers:
        handler.setFormatter(JsonLines())


def say(text: str, _stream: Any = None) -> None:
    """Write a line of JSON where Celery would print `text`. Takes no lock: Celery does so in its
    signal handlers."""
    record = logging.LogRecord(
        "celery.apps.worker", logging.WARNING, "", 0, text.strip(), None, None
    )
    os.write(2, f"{JsonLines().format(record)}\n".encode())
