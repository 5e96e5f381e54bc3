"""Secrets of a run taken out of what its attempts show: by exact value, before a text is cut or
leaves the process."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.definition.secrets import HIDDEN, MASKED_CHARS


class Masks:
    """The secrets that an attempt knows; they go with it. Of one with several lines each line is
    masked by itself, too, since logs are kept line by line."""

    __slots__ = ("_pattern", "_words")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        texts = list(secrets)
        words = {
            word for text in texts for word in (text, *(line.strip() for line in text.splitlines()))
        }
        self._words = sorted(
            (word for word in words if len(word) >= MASKED_CHARS), key=len, reverse=True
        )
        self._pattern = re.compile("|".join(map(re.escape, self._words))) if self._words else None

    def __call__(self, text: str) -> str:
        """Return the text with *** in place of each secret."""
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def cut(self, text: str) -> str:
        """Return the text masked, of which the end is missing: a possible beginning of a
        secret goes, too."""
        masked = self(text)
        for word in self._words:
            for length in range(min(len(word) - 1, len(masked)), 0, -1):
                if masked.endswith(word[:length]):
                    return masked[:-length] + HIDDEN
        return masked


NO_MASKS = Masks()
