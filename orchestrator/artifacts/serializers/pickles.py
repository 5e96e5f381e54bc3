"""Pickles of values of any size, of which nothing is held in memory twice.

A file is a pickle; where the value has large buffers, as arrays do, they stand behind it, then a
table of their sizes:

    pickle | buffer ... | size of the pickle, sizes of the buffers (8 bytes each) | their number (8
    bytes) | MAGIC

A pickle ends with ".", so the last byte tells the two forms apart.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from enum import Enum
from operator import getitem
from typing import Any, BinaryIO

import cloudpickle

MAGIC = b"ORCPKL1\n"
_BUFFER_BYTES = 64 * 1024  # a smaller buffer stands inside the pickle
_PIECE_BYTES = 1024 * 1024 * 1024  # of one system call

_EXACTLY: dict[str, Callable[[Any], Any]] = {
    "longlong": int, "ulonglong": int, "intc": int, "uintc": int, "str_": str.__str__,
    "bytes_": bytes,
}  # fmt: skip

_BY_VALUE: Any = Enum.__reduce_ex__


class ExactPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles NumPy's scalars and enum members exactly.

    Left to itself, NumPy makes others of some, and drops NUL at the end of text. An enum looks its
    members up by their values, and does not find those that equal nothing, as a function or nan.
    """

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, Enum):
            reduce: Any = kind.__reduce_ex__
            if reduce is _BY_VALUE and kind.__members__.get(value.name or "") is value:
                return getitem, (kind, value.name)
            return super().reducer_override(value)
        if kind.__module__ == "numpy" and (plain := _EXACTLY.get(kind.__name__)):
            return kind, (plain(value),)
        return super().reducer_override(value)


class _Sink:
    """What a pickler writes to. What is written is counted."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self._write = write
        self.size = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._write(data)
        self.size += size
        return size


def write_pickle(value: Any, write: Callable[[Any], Any]) -> None:
    """Write a value, piece by piece. Raises whatever `write` and the value's own code raise."""
    buffers: list[pickle.PickleBuffer] = []

    def is_inside(buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as raw:
            if raw.nbytes < _BUFFER_BYTES:
                return True
        buffers.append(buffer)
        return False

    sink = _Sink(write)
    ExactPickler(sink, protocol=5, buffer_callback=is_inside).dump(value)
    if not buffers:
        return
    sizes = [sink.size]
    for buffer in buffers:
        with buffer.raw() as raw:
            write(raw)
            sizes.append(raw.nbytes)
    write(struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<Q", len(buffers)) + MAGIC)


ReadAt = Callable[[memoryview, int], int]


def read_pickle(file: BinaryIO, read_at: ReadAt | None = None) -> Any:
    """Return the value in a file, which is read from its beginning.

    `read_at` fills a part of a large buffer from a place in the file and returns how many bytes it
    read; by default it is `preadv`.
    """
    size = file.seek(0, os.SEEK_END)
    sizes = _sizes(file, size)
    file.seek(0)
    if not sizes:
        return pickle.load(file)
    return pickle.load(file, buffers=_buffers(read_at or _reader_of(file.fileno()), sizes))


def _reader_of(file: int) -> ReadAt:
    return lambda piece, at: os.preadv(file, [piece], at)


def _sizes(file: BinaryIO, size: int) -> list[int]:
    """Return the sizes of the pickle and of each buffer behind it; none if the file is a pickle
    alone."""
    tail = 8 + len(MAGIC)
    if size < tail:
        return []
    file.seek(size - tail)
    count, magic = struct.unpack(f"<Q{len(MAGIC)}s", file.read(tail))
    if magic != MAGIC:
        return []
    file.seek(size - tail - 8 * (count + 1))
    return list(struct.unpack(f"<{count + 1}Q", file.read(8 * (count + 1))))


def _buffers(read_at: ReadAt, sizes: list[int]) -> Iterator[bytearray]:
    """Return each buffer when the pickle comes to it."""
    at, *others = sizes
    for size in others:
        buffer = bytearray(size)
        with memoryview(buffer) as view:
            done = 0
            while done < size:
                with view[done : done + _PIECE_BYTES] as piece:
                    read = read_at(piece, at + done)
                if not read:
                    raise EOFError("the file is shorter than its table says")
                done += read
        at += size
        yield buffer
