"""The ledger's Lua on its way into the server, and the one way in which it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from orchestrator.ledger.pages import PAGE

NOUNS = (
    "keys", "state", "front", "joins", "answers", "starting", "cancelling", "attempts", "clocks",
    "leases", "resuming", "alerts", "deleting"
)  # fmt: skip
"""The files in `lua/`, in one piece: each uses what stands before it."""
_FOLDER = files("orchestrator.ledger").joinpath("lua")
_TEXT = "\n".join(_FOLDER.joinpath(f"{noun}.lua").read_text("utf-8") for noun in NOUNS)


@dataclass(frozen=True, slots=True)
class ScriptText:
    """The script for one size of pages, as a library of functions and as a script."""

    function: str
    library: str
    script: str
    script_sha: str


@cache
def script_text(page: int = PAGE) -> ScriptText:
    """Return the script whose calls do `page` steps of work."""
    before, unset, after = _TEXT.partition("local PAGE = 0 ")
    assert unset
    text = f"{before}local PAGE = {page} {after}"
    # two versions may work on one server
    function = f"orchestrator_{_sha(text)[:12]}"
    library = f"""#!lua name={function}
{text}
redis.register_function('{function}', function(keys, args)
  enter(keys, args)
  return ops[args[1]]()
end)
"""
    script = f"{text}\nenter(KEYS, ARGV)\nreturn ops[ARGV[1]]()\n"
    return ScriptText(function, library, script, _sha(script))


def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


SCRIPT = script_text().script
LIBRARY = script_text().library
FUNCTION = script_text().function


class Script:
    """The operations of the files in `lua/` on one server."""

    def __init__(self, client: redis.Redis, page: int = PAGE) -> None:
        self._client, self._text = client, script_text(page)
        self._has_functions = True  # until the server says otherwise

    def call(self, key: str, *args: Any) -> Any:
        """Do one operation, the first of `args`, on the run whose hash is `key`."""
        return self.calls([(key, args)])[0]

    def calls(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Do operations, several of them in one round trip; each is atomic by itself.

        They are a function of the server, loaded when it is not there yet. A server without
        functions (before Redis 7) or that lets us load none gets a script, which costs it about 8
        µs more a call to set up.
        """
        try:
            return self._send(calls)
        except ResponseError as error:
            if not self._provide(error):
                raise
        return self.calls(calls)  # at most from the function to the script, which is loaded next

    def _send(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        if len(calls) == 1:
            key, args = calls[0]
            if self._has_functions:
                return [self._client.fcall(self._text.function, 1, key, *args)]
            return [self._client.evalsha(self._text.script_sha, 1, key, *args)]
        with self._client.pipeline(transaction=False) as pipe:
            for key, args in calls:
                if self._has_functions:
                    pipe.fcall(self._text.function, 1, key, *args)
                else:
                    pipe.evalsha(self._text.script_sha, 1, key, *args)
            return pipe.execute()

    def _provide(self, error: ResponseError) -> bool:
        """Load what the server said it has not; False if the error was another one."""
        if self._has_functions and "function not found" in str(error).lower():
            try:
                self._client.function_load(self._text.library)
            except ResponseError as refusal:
                # or somebody else was faster
                self._has_functions = "already exists" in str(refusal)
            return True
        if self._has_functions and (
            isinstance(error, NoPermissionError) or "unknown command" in str(error).lower()
        ):
            self._has_functions = False
            return True
        if isinstance(error, NoScriptError):
            self._client.script_load(self._text.script)
            return True
        return False
