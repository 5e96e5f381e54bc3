"""A value that another version of Python has pickled is read if it can be; the log and the error
say whose it is."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifacts.values import PYTHON, ArtifactStore
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import ArtifactOfAnotherPython


def test_an_input_of_another_python_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ArtifactStore.in_folder(tmp_path)
    artifact = store.save(AttemptId("run", "step", 1), 1, {"a": 1})
    assert artifact.python == PYTHON

    with caplog.at_level(logging.WARNING):
        assert store.load(artifact) == {"a": 1}
        assert store.load(replace(artifact, python="")) == {"a": 1}
        assert not caplog.records
        assert store.load(replace(artifact, python="2.7")) == {"a": 1}

    assert f"was pickled by Python 2.7, and is read by Python {PYTHON}" in caplog.text


def test_an_input_of_another_python_that_cannot_be_read_names_both_versions(tmp_path: Path) -> None:
    store = ArtifactStore.in_folder(tmp_path)
    artifact = store.save(AttemptId("run", "step", 1), 1, {"a": 1})
    data = b"\x80\x05cno_such_module\nThing\n."
    (tmp_path / artifact.path).write_bytes(data)
    foreign = replace(artifact, sha256=hashlib.sha256(data).hexdigest())

    with pytest.raises(ModuleNotFoundError):
        store.load(foreign)
    with pytest.raises(
        ArtifactOfAnotherPython, match=f"2.7, and is read by Python {PYTHON}: ModuleNotFoundError"
    ):
        store.load(replace(foreign, python="2.7"))
