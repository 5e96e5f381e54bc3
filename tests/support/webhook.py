"""A real web server that Apprise's json:// tells."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """What the server was told. A path answers 200, unless `answers` holds others for it, or it
    hangs."""

    port: int = 0
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, login: str = "", query: str = "") -> str:
        """Return the Apprise URL of a path."""
        return f"json://{login}127.0.0.1:{self.port}/{path}{query}"

    @property
    def label(self) -> str:
        """Return how the server is shown to people."""
        return f"json://127.0.0.1:{self.port}"

    def messages(self, path: str) -> list[dict[str, Any]]:
        """Return what came to a path."""
        return [body for to, body in self.told if to == path]


@contextmanager
def serving() -> Iterator[Webhook]:
    """Serve on a free port of this machine."""
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            hook.told.append(
                (path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            )
            if path in hook.hanging:
                hook.released.wait(30)
                return
            left = hook.answers.get(path, [])
            self.send_response(left.pop(0) if left else 200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *words: object) -> None:
            pass  # somebody waited no longer

    server = Server(("127.0.0.1", 0), Handler)
    hook.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hook
    finally:
        hook.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
