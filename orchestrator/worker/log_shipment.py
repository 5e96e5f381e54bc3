"""The log of one attempt on its way to the ledger."""

from __future__ import annotations

import threading

from orchestrator.attempt_id import AttemptId
from orchestrator.ledger.ledger import Ledger
from orchestrator.worker.log_lines import LogLines, kept_line
from orchestrator.worker.masking import NO_MASKS, Masks
from orchestrator.worker.patience import until_answered

SHIP_INTERVAL_S = 0.5
_BATCH = 1_000  # lines of one call: a script of the ledger holds everybody up


class Shipment:
    """Takes what an attempt writes and sends its last `limit` lines. Threads may write at once.

    Lines that could not be sent stay, and go with the next ones.
    """

    def __init__(
        self,
        ledger: Ledger,
        limit: int,
        attempt: AttemptId,
        token: int,
        masks: Masks = NO_MASKS,
        written: int = 0,
    ) -> None:
        self._ledger = ledger
        self._attempt, self._token = attempt, token
        self._limit = limit
        self.masks = masks
        self._lines = LogLines()
        self._unsent: list[str] = []
        self.written = written  # lines that are finished, sent or not
        self._is_fenced = limit == 0
        self._adding, self._sending = threading.Lock(), threading.Lock()

    def add(self, written: bytes | str) -> None:
        """Take what was written; nothing is sent yet."""
        if not self._is_fenced:
            with self._adding:
                self._keep(self._lines.add(written))

    def send(self) -> None:
        """Send the lines that are finished."""
        with self._sending:
            while not self._is_fenced:
                with self._adding:
                    batch = self._unsent[:_BATCH]
                    before = self.written - len(self._unsent)
                if not batch:
                    return
                self._is_fenced = not self._ledger.append_log(
                    self._attempt, self._token, batch, self._limit, before=before
                )
                with self._adding:
                    del self._unsent[
                        : max(0, before + len(batch) - (self.written - len(self._unsent)))
                    ]

    def end(self) -> None:
        """Send all that is left, with a last line that has no end."""
        with self._adding:
            self._keep(self._lines.end())
        until_answered(self.send)  # else its attempt, whose work is done, would count as failed

    def _keep(self, lines: list[tuple[str, int]]) -> None:
        self.written += len(lines)
        self._unsent += [self._cleaned(*line) for line in lines[-self._limit :]]
        del self._unsent[: -self._limit]

    def _cleaned(self, line: str, left_out: int) -> str:
        """Return a line as it is to be kept. Every line passes here: decoded, finished, and not cut
        yet.

        Those that a dead child has left pass here in the worker's main process (`log_file`).
        """
        return kept_line(self.masks.cut(line) if left_out else self.masks(line), left_out)
