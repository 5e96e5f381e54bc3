"""Many who do the same to one ledger at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from orchestrator.ledger.connection import connect
from orchestrator.ledger.ledger import Ledger

T = TypeVar("T")


@pytest.fixture
def at_once(
    shared_redis_url: str, ledger: Ledger
) -> Iterator[Callable[[Callable[[Ledger, int], T]], list[T]]]:
    """Call a function from eight threads at the same moment, each with a connection of its own;
    give the answers."""
    clients = [connect(shared_redis_url) for _ in range(8)]
    barrier = threading.Barrier(len(clients))

    def call(function: Callable[[Ledger, int], T]) -> list[T]:
        def one(number: int) -> T:
            barrier.wait(10)
            return function(Ledger(clients[number], ledger.prefix), number)

        with ThreadPoolExecutor(len(clients)) as threads:
            return list(threads.map(one, range(len(clients))))

    yield call
    for client in clients:
        client.close()
