"""The ledger's Lua on its way into the server, and the one way in which it is called."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

NOUNS = (
    "keys", "state", "joins", "starting", "attempts", "cancelling", "clocks", "leases", "resuming",
    "alerts", "deleting"
)  # fmt: skip
"""The files in `lua/`, in one piece: each uses what stands before it."""
_FOLDER = files("orchestrator.ledger").joinpath("lua")
_TEXT = "\n".join(_FOLDER.joinpath(f"{noun}.lua").read_text("utf-8") for noun in NOUNS)
_VERSION = sha1(_TEXT.encode(), usedforsecurity=False).hexdigest()[:12]
FUNCTION = f"orchestrator_{_VERSION}"  # two versions may work on one server
LIBRARY = f"""#!lua name={FUNCTION}
{_TEXT}
redis.register_function('{FUNCTION}', function(keys, args)
  enter(keys, args)
  return ops[args[1]]()
end)
"""
SCRIPT = f"{_TEXT}\nenter(KEYS, ARGV)\nreturn ops[ARGV[1]]()\n"
_SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Script:
    """The operations of the files in `lua/` on one server."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
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
                return [self._client.fcall(FUNCTION, 1, key, *args)]
            return [self._client.evalsha(_SCRIPT_SHA, 1, key, *args)]
        with self._client.pipeline(transaction=False) as pipe:
            for key, args in calls:
                if self._has_functions:
                    pipe.fcall(FUNCTION, 1, key, *args)
                else:
                    pipe.evalsha(_SCRIPT_SHA, 1, key, *args)
            return pipe.execute()

    def _provide(self, error: ResponseError) -> bool:
        """Load what the server said it has not; False if the error was another one."""
        if self._has_functions and "function not found" in str(error).lower():
            try:
                self._client.function_load(LIBRARY)
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
            self._client.script_load(SCRIPT)
            return True
        return False
