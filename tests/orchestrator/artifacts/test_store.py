"""Artifacts of any size: their bytes are those that were hashed, and none of them is held in memory
twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from orchestrator.artifacts.faults import InputUnreadable
from orchestrator.artifacts.reference import Artifact
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import ArtifactMissing

LARGE = 1_000_000
VALUES = {
    "nothing": None,
    "small": [1, "a"],
    "bytes": bytes(LARGE),
    "bytearray": bytearray(LARGE),
    "array": np.arange(LARGE, dtype="f4"),
    "Fortran array": np.asfortranarray(np.arange(LARGE).reshape(1000, 1000)),
    "slice": np.arange(LARGE)[::3],
    "many arrays": {
        "a": np.arange(LARGE),
        "b": [np.zeros(3), np.ones(LARGE, dtype=complex)],
        "c": "text",
    },
    "one array twice": [shared := np.arange(LARGE), shared],
    "objects": np.array([{"a": 1}, None], dtype=object),
    "empty array": np.zeros((0, 3)),
    "read-only array": np.broadcast_to(np.arange(LARGE), (1, LARGE)),
}


def save(root: Path, value: Any) -> Artifact:
    return ArtifactStore.in_folder(root).save(AttemptId("run", "step", 1), 7, value)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_and_its_bytes_are_those_that_were_hashed(
    tmp_path: Path, name: str
) -> None:
    artifact = save(tmp_path, VALUES[name])
    data = (tmp_path / artifact.path).read_bytes()

    back = ArtifactStore.in_folder(tmp_path).load(artifact)

    assert (artifact.size_bytes, artifact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert pickle.dumps(back) == pickle.dumps(VALUES[name])


@pytest.mark.parametrize("name", ["array", "Fortran array", "many arrays"])
def test_an_array_that_was_read_can_be_written_to(tmp_path: Path, name: str) -> None:
    back = ArtifactStore.in_folder(tmp_path).load(save(tmp_path, VALUES[name]))
    array = back["a"] if isinstance(back, dict) else back

    array[0] = 5

    assert np.all(array[0] == 5)


def test_one_array_in_two_places_is_one_array_again(tmp_path: Path) -> None:
    first, second = ArtifactStore.in_folder(tmp_path).load(
        save(tmp_path, VALUES["one array twice"])
    )

    assert first is second


@pytest.mark.parametrize("name", VALUES)
def test_a_file_of_version_0_1_0_is_read(tmp_path: Path, name: str) -> None:
    data = cloudpickle.dumps(VALUES[name], protocol=5)
    (tmp_path / "old.pickle").write_bytes(data)

    back = ArtifactStore.in_folder(tmp_path).load(
        Artifact("old.pickle", hashlib.sha256(data).hexdigest(), len(data), "?")
    )

    assert pickle.dumps(back) == pickle.dumps(VALUES[name])


@pytest.mark.parametrize("at", [0, 500, -100, -1])
def test_a_changed_byte_is_noticed_before_anything_is_read_from_it(tmp_path: Path, at: int) -> None:
    artifact = save(tmp_path, VALUES["array"])
    path = tmp_path / artifact.path
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    with pytest.raises(ArtifactMissing, match="SHA-256 differs"):
        ArtifactStore.in_folder(tmp_path).load(artifact)
    with pytest.raises(ArtifactMissing, match="Do all workers share this folder"):
        ArtifactStore.in_folder(tmp_path).load(replace(artifact, path="gone.pickle"))


@pytest.mark.parametrize("name", ["array", "many arrays"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_an_error_while_a_large_buffer_is_read_is_the_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    artifact = save(tmp_path, VALUES[name])
    read = os.preadv

    def fail(file: int, buffers: list[memoryview], at: int) -> int:
        if at > LARGE:  # in the midst of it
            raise OSError(code, os.strerror(code))
        return read(file, [buffers[0][: LARGE // 2]], at)

    monkeypatch.setattr(os, "preadv", fail)

    with pytest.raises(
        InputUnreadable,
        match=f"cannot read from the artifact store {tmp_path}: {os.strerror(code)}",
    ):
        ArtifactStore.in_folder(tmp_path).load(artifact)


def test_a_value_that_cannot_be_stored_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        save(tmp_path, [bytes(LARGE), (number for number in [])])

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


SIZE = 100_000_000
MEASURE = """
import json, sys
import numpy as np
from pathlib import Path
from orchestrator.artifacts.outputs import decode_output, encode_output
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_id import AttemptId

def peak():  # ru_maxrss would be that of the process which has started us, where that is larger
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

store = ArtifactStore.in_folder(Path(sys.argv[1]))
def save(value, step="step"):
    return encode_output(value, 4096, lambda value: store.save(AttemptId("run", step, 1), 1, value))

decode_output(save([np.zeros(100_000), bytes(100_000), "a"], "first"), store)  # loads what it needs
text = Path(sys.argv[1], "output.json")
before = peak()
if sys.argv[2] == "save":
    value = eval(sys.argv[3])
    text.write_text(save(value))
else:
    value = decode_output(text.read_text(), store)
print(json.dumps([before, peak()]))
"""


@pytest.mark.parametrize(
    "value",
    [
        f"np.ones({SIZE} // 8)",
        f"np.ones(({SIZE} // 8000, 1000), order='F')",
        f"{{'weights': [np.ones({SIZE} // 16), np.ones({SIZE} // 16)]}}",
        f"b'x' * {SIZE}",
        f"bytearray({SIZE})",
        f"[float(number) for number in range({SIZE} // 32)]",
        f"[bytes([number % 256]) * 1000 for number in range({SIZE} // 1033)]",
    ],
)
def test_saving_and_loading_need_little_more_memory_than_the_value(
    tmp_path: Path, value: str
) -> None:
    for what in ("save", "load"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path), what, value],
            capture_output=True,
            text=True,
            check=True,
        )
        before, peak = json.loads(done.stdout)

        assert 0.9 <= (peak - before) / SIZE <= 1.35, what
