"""Takes Celery events as Flower does, from the broker named on the command line, until standard
input closes."""

from __future__ import annotations

import os
import sys
import threading

from celery import Celery
from celery.events import EventReceiver


def main(broker_url: str) -> None:
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    app = Celery("watcher", broker=broker_url, set_as_current=False)
    state = app.events.State()
    with app.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"*": state.event}, app=app)
        print("ready", flush=True)
        receiver.capture(limit=None, timeout=None, wakeup=False)


def _end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
