"""Who else may read what is kept on disk, whatever the umask of the process."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts.identity import marked_store
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import SettingsInvalid
from orchestrator.local.server import embedded_server
from orchestrator.permissions import Permissions
from orchestrator.settings.model import Settings


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> tuple[set[str], set[str]]:
    """Return the modes of all files (sockets too) and folders in a folder, with its own."""
    files, folders = set(), {oct(stat.S_IMODE(folder.stat().st_mode))}
    for place, names, others in os.walk(folder):
        folders |= {oct(stat.S_IMODE((Path(place) / name).lstat().st_mode)) for name in names}
        files |= {oct(stat.S_IMODE((Path(place) / name).lstat().st_mode)) for name in others}
    return files, folders


def fill(root: Path, permissions: Permissions) -> None:
    marked_store(root, permissions)
    store = ArtifactStore.in_folder(root, is_marked=True, permissions=permissions)
    store.save(AttemptId("run", "step", 1), 7, {"a": "value"})
    store.files.make_folder(root / "run" / "step.checkpoints" / "deep")


@pytest.mark.parametrize(
    ("mode", "file_mode", "folder_mode"),
    [
        ("0600", "0o600", "0o700"),
        ("0640", "0o640", "0o750"),
        ("0660", "0o660", "0o770"),
        ("644", "0o644", "0o755"),
    ],
)
def test_an_artifact_folder_has_the_mode_of_the_settings(
    tmp_path, mode, file_mode, folder_mode
) -> None:
    root = tmp_path / "new" / "artifacts"

    fill(root, Settings(artifact_mode=mode).artifact_permissions)

    assert modes(tmp_path / "new") == ({file_mode}, {folder_mode})


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to any group")
def test_an_artifact_folder_has_the_group_of_the_settings_and_hands_it_on(tmp_path) -> None:
    chosen = Settings(artifact_mode="0660", artifact_group="daemon")
    root = tmp_path / "artifacts"

    fill(root, chosen.artifact_permissions)
    (root / "run" / "step.checkpoints" / "by-the-step").write_text("…")

    group_id = chosen.artifact_permissions.group_id
    assert {path.stat().st_gid for path in (root, *root.rglob("*"))} == {group_id}
    assert modes(root)[1] == {"0o2770"}


def test_a_group_that_there_is_not_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="no group 'no-such-group' on this host"):
        _ = Settings(artifact_group="no-such-group").artifact_permissions


def test_the_data_of_an_embedded_server_is_private(tmp_path) -> None:
    with embedded_server(tmp_path / "data"):
        pass

    files, folders = modes(tmp_path / "data")
    assert all(int(mode, 8) & 0o077 == 0 for mode in files | folders)
