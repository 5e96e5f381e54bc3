"""What `doctor` says of this installation."""

from __future__ import annotations

import sys

import pytest

from orchestrator.cli.health.machine import PACKAGES, check_versions
from orchestrator.settings.model import Settings


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_that_cannot_be_imported_is_a_fault(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if it, or what it needs, were not there
    monkeypatch.setitem(sys.modules, PACKAGES[package], None)

    faults = [finding for finding in check_versions(Settings()) if finding.level == "fault"]

    assert [(fault.what, PACKAGES[package] in fault.found) for fault in faults] == [
        (f"package {package}", True)
    ]


def test_packages_that_can_be_imported_are_named_with_their_versions() -> None:
    (finding,) = check_versions(Settings())

    assert all(f"{package} " in finding.found for package in PACKAGES)
