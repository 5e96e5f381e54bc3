"""Lines of a log, from what a step writes in pieces of any size.

A line that is overwritten with `\\r`, as progress bars do, is what it was at its end. What one line
may take is bounded: the rest of a longer one is counted, and the line says so.
"""

from __future__ import annotations

import codecs

LINE_CHARS = 8_000  # of a line that are kept
# of a line that are seen before it is cut, so that what lies across the cut is seen whole
_HELD_CHARS = 2 * LINE_CHARS


class LogLines:
    """The lines in a stream of bytes, of text, or of both. The last one is held back until it is
    finished."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = ""
        self._left_out = 0  # characters of the open line that are not held

    def add(self, written: bytes | str) -> list[tuple[str, int]]:
        """Return the lines that are finished now, each with how many characters at its end were
        left out."""
        if isinstance(written, str):
            text = written.encode(
                "utf-8", "backslashreplace"
            ).decode()  # no server takes half a surrogate pair
        else:
            text = self._decoder.decode(written)
        first, *others = text.split("\n")
        lines = []
        self._extend(first)
        for other in others:
            lines.append(self._finish())
            self._extend(other)
        return lines

    def end(self) -> list[tuple[str, int]]:
        """Return the line that nobody has finished, if there is one."""
        self._extend(self._decoder.decode(b"", final=True))
        line = self._finish()
        return [line] if line != ("", 0) else []

    def _extend(self, text: str) -> None:
        if not text:
            return
        if self._open:
            text = self._open + text
        if "\r" in text:
            body = text.rstrip("\r")
            state = body.rpartition("\r")[2]
            if len(state) < len(body):
                self._left_out = 0  # that was overwritten
            text = state if len(body) == len(text) else f"{state}\r"  # the line's end may follow
        if len(text) > _HELD_CHARS:
            has_return = text.endswith("\r")
            held = text[: _HELD_CHARS - 1] + "\r" if has_return else text[:_HELD_CHARS]
            self._left_out += len(text) - len(held)
            text = held
        self._open = text

    def _finish(self) -> tuple[str, int]:
        line = self._open.removesuffix("\r"), self._left_out
        self._open, self._left_out = "", 0
        return line


def kept_line(line: str, left_out: int) -> str:
    """Return a line as a log keeps it; `left_out` characters at its end are gone already."""
    more = max(0, len(line) - LINE_CHARS) + left_out
    return (
        f"{line[:LINE_CHARS]}… [{more:,} more characters of this line were not kept]"
        if more
        else line
    )
