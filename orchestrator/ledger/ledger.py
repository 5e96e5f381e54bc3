"""The ledger's client: one method for each operation of the files in `lua/`, beside the reads.

Every write is one atomic call. Times are microseconds since the epoch by the server's clock.
"""

from __future__ import annotations

from orchestrator.ledger.alerts import Alerts
from orchestrator.ledger.attempts import Attempts
from orchestrator.ledger.cancelling import Cancelling
from orchestrator.ledger.clocks import Clocks
from orchestrator.ledger.deleting import Deleting
from orchestrator.ledger.leases import Leases
from orchestrator.ledger.resuming import Resuming


class Ledger(Attempts, Leases, Clocks, Cancelling, Resuming, Alerts, Deleting):
    """State of runs in one Redis. Safe to share between threads, as the client is; not across a
    fork."""
