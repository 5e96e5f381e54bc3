"""The text of the script, its head apart from its code."""

from __future__ import annotations

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.script import SCRIPT

HEAD, _, CODE = SCRIPT.partition("\nlocal ")


def keys_and_types(ledger: Ledger) -> dict[str, str]:
    found = sorted(ledger.client.scan_iter(f"{ledger.prefix}:*", count=1000))
    return {key.removeprefix(f"{ledger.prefix}:"): ledger.client.type(key) for key in found}
