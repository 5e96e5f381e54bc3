"""Whether the code that an attempt runs is the code that was submitted, and what follows where it
is not.

The submitted digests are read once for each run in a process. A file that is broken for a moment,
as while it is being copied, is waited for (`half_copied.py`); one that is broken as it was
submitted fails its step at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import FunctionNotFound
from orchestrator.ledger.values import Claim
from orchestrator.wording import listed
from orchestrator.worker.child.half_copied import BUDGET_S
from orchestrator.worker.child.user_code import LoadedCode, UserCode
from orchestrator.worker.patience import until_answered
from orchestrator.worker.process import WorkerProcess

SHOWN_DIGITS = 12
NAMED_FILES = 20
KEPT_RUNS = 1000
# What importing a file raises that is not there yet, is cut off, or does not yet fit to another
# one.
_OF_HALF_A_COPY = (
    SyntaxError,
    ImportError,
    FunctionNotFound,
    NameError,
    AttributeError,
    EOFError,
    UnicodeError,
)

_submitted: dict[str, Mapping[str, str]] = {}  # id -> digests, by file
_recorded: dict[tuple[str, str], None] = {}  # runs and ids whose digests are in the ledger


class CodeRefused(BaseException):
    """The setting `code_drift` refuses to run other code than was submitted. Not the step's own
    error."""


class CodeCheck:
    """The code of one attempt."""

    def __init__(
        self, process: WorkerProcess, run_id: str, claim: Claim, user_code: UserCode
    ) -> None:
        self._process, self._run_id, self._claim, self._user_code = (
            process,
            run_id,
            claim,
            user_code,
        )
        self._half_copied = user_code.half_copied

    def function(self, uses: str) -> Callable[..., Any]:
        """Return the function of a step. Raises CodeRefused, or what importing it raises when that
        does not pass."""
        self._half_copied.begin(self._claim.import_path, until_answered(self._submitted_code))
        is_last_try = False
        while True:
            try:
                function = self._user_code.function(uses)
                break
            except _OF_HALF_A_COPY as error:
                changed = self._half_copied.unsettled()
                # All may be well again by now: then it is tried once more.
                is_tried = changed or (not is_last_try and self._has_just_changed())
                if is_tried and self._half_copied.may_wait():
                    is_last_try = not changed
                    self._user_code.forget()
                    with self._user_code.of(self._claim.import_path, uses.partition(":")[0]):
                        # the folder itself may have been missing
                        continue
                if changed and self._process.settings.code_drift == "refuse":
                    raise CodeRefused(self._refusal(changed)) from error
                if isinstance(error, ImportError | FunctionNotFound) and (
                    missing := self._half_copied.missing()
                ):
                    raise FunctionNotFound(self._half_copied.missing_text(missing)) from error
                raise
        if self._process.settings.code_drift == "refuse" and (differing := self._differing()):
            raise CodeRefused(self._refusal(list(differing)))
        return function

    def as_detail(self) -> dict[str, Any]:
        """Return what the end of the attempt says of its code: an id of all its files, and which
        differ from what was submitted, with both digests. Empty when it ran none of the user's
        files."""
        loaded = self._loaded()
        if not loaded.files:
            return {}
        ran: dict[str, Any] = {"id": loaded.id}
        if self._process.settings.code_drift != "allow" and (differing := self._differing()):
            ran["differs"] = {
                file: [(submitted or "")[:SHOWN_DIGITS], ran[:SHOWN_DIGITS]]
                for file, (submitted, ran) in list(differing.items())[:NAMED_FILES]
            }
            ran["host"] = socket.gethostname()
        return {"code": ran}

    def to_record(self) -> tuple[str, str] | None:
        """Return id and digests (JSON) to be kept with the run, None if this process has done so
        before."""
        loaded = self._loaded()
        key = (self._run_id, loaded.id)
        if not loaded.files or key in _recorded:
            return None
        _keep(_recorded, key, None)
        return loaded.id, json.dumps(loaded.files, separators=(",", ":"))

    def _loaded(self) -> LoadedCode:
        submitted, code_id = self._submitted_code(), self._claim.code_id
        module = self._claim.spec.module
        return self._user_code.loaded(module, submitted if code_id in _submitted else None, code_id)

    def _differing(self) -> dict[str, tuple[str | None, str]]:
        """Return the loaded files that differ from what was submitted, with both digests."""
        submitted = self._submitted_code()
        if not submitted:
            return {}
        return {
            file: (submitted.get(file), digest)
            for file, digest in self._loaded().files.items()
            if file in submitted and submitted[file] != digest
        }

    def _has_just_changed(self) -> bool:
        """Whether a submitted file was written a moment ago, so that it may have been another one
        when it was read."""
        since = time.time() - BUDGET_S
        for file in self._submitted_code():
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(self._claim.import_path, file))
                if max(status.st_mtime, status.st_ctime) > since:
                    return True
        return False

    def _submitted_code(self) -> Mapping[str, str]:
        code_id = self._claim.code_id
        if not code_id:
            return {}
        if code_id not in _submitted:
            text = self._process.ledger.submitted_code(self._run_id)
            if hashlib.sha256(text.encode()).hexdigest()[:SHOWN_DIGITS] != code_id:
                return {}  # the run was resumed meanwhile
            _keep(_submitted, code_id, json.loads(text))
        return _submitted[code_id]

    def _refusal(self, files: list[str]) -> str:
        return (
            f"host {socket.gethostname()} has other code than was submitted: {listed(files, 3)} "
            f"in {self._claim.import_path} (code_drift = refuse)"
        )


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > KEPT_RUNS:
        del kept[next(iter(kept))]
