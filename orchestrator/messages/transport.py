"""Celery's way to the server: kombu's Redis transport, to which a server that refuses is one that is away.

kombu takes a refusal (BUSY, OOM, …) for a fault of the channel, at which a worker's main process ends itself.
"""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport import redis

from orchestrator.refusals import with_refusals


class Channel(redis.Channel):
    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)  # type: ignore[no-untyped-call]
        return {**params, "connection_class": with_refusals(params["connection_class"])}


class Transport(redis.Transport):
    Channel = Channel


class BrokerConnection(Connection):
    """Reads URLs as every connection of kombu does, and has the transport above for those of Redis."""

    def get_transport_cls(self) -> Any:
        found = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return Transport if found is redis.Transport else found


class Messages(AMQP):  # type: ignore[misc]
    """What a Celery app makes its connections of."""

    Connection = BrokerConnection
