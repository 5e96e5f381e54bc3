"""Celery's way to the server: kombu's Redis transport, made to outlive refusals and whatever
anybody pushes.

One place for all that Celery's main processes read from Redis. To it a server that refuses is one
that is away: kombu takes a refusal (BUSY, OOM, …) for a fault of the channel, at which a worker's
main process ends itself. Entries of queues (`_brpop_read`), messages of the event and control
channels (`_receive_one`) and bindings (`get_table`) are looked at before anything is made of them.
It relies on private parts of kombu 5.7; a test asserts that they are there.
"""

from __future__ import annotations

from queue import Empty
from typing import Any, ClassVar, Protocol

from celery.app.amqp import AMQP
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.log import get_logger
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import RedisError, ResponseError

from orchestrator.messages.reading import BrokenMessage, ForeignMessage, OwnMessage, read_message
from orchestrator.refusals import with_refusals

logger = get_logger("kombu.transport.orchestrator")

REPLIES = ".reply.celery.pidbox"
_DECODED = "decoded"
# of the server; whatever else a message raises is the message's fault
_REFUSALS = (
    RedisError,
    OSError,
)


class Keeper(Protocol):
    """Who keeps what a worker must not run. `list_key` is the list that it lay in, without the
    broker's prefix."""

    def __call__(
        self, queue: str, list_key: str, entry: bytes, found: ForeignMessage | BrokenMessage, /
    ) -> None: ...

    def clear_the_way(self, queue: str, list_key: str, /) -> None:
        """Move the key of that name elsewhere if it is not a list: none of the queues can be read
        meanwhile."""


class CheckedMessage(virtual.Message):
    """A message whose body was decoded when it was looked at; Celery would do it again."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel=channel, **options)  # type: ignore[no-untyped-call]
        self._decoded_cache = payload.pop(_DECODED, None)


class Channel(redis.Channel):
    """Delivers messages of ours, and hands everything else to `keeper`, which workers set."""

    Message = CheckedMessage
    keeper: ClassVar[Keeper | None] = None
    _reported: ClassVar[set[str]] = set()

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)  # type: ignore[no-untyped-call]
        return {**params, "connection_class": with_refusals(params["connection_class"])}

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to a BRPOP as kombu's own does, and look at the entry before it is
        delivered."""
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            except ResponseError as error:
                if self.keeper is None or not str(error).startswith("WRONGTYPE"):
                    raise
                for queue in self.active_queues:
                    for level in self.priority_steps:
                        self.keeper.clear_the_way(queue, self._q_for_pri(queue, level))  # type: ignore[no-untyped-call]
                raise Empty() from None
            if not answer:
                raise Empty()
            list_key = bytes_to_str(answer[0])
            queue = list_key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._take(queue, list_key, answer[1])
            return True
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]

    def _take(self, queue: str, list_key: str, entry: bytes) -> None:
        if self.keeper is None or queue.endswith(REPLIES):
            # not a worker, or an answer to a remote control command
            self.connection._deliver(loads(bytes_to_str(entry)), queue)
            return
        found = read_message(entry)
        if isinstance(found, OwnMessage):
            found.envelope[_DECODED] = found.body
            try:
                self.connection._deliver(found.envelope, queue)
                return
            except _REFUSALS:
                raise
            except Exception as error:
                logger.exception("a message of queue %s could not be taken", queue)
                found = BrokenMessage(f"Celery could not take it: {type(error).__name__}")
        self.keeper(queue, list_key, entry, found)

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)  # type: ignore[no-untyped-call]
        except Empty:
            raise
        except _REFUSALS:
            raise
        except Exception as error:  # a KeyError, too, which kombu would take for a lost connection
            kind = type(error).__name__
            if kind not in self._reported:
                self._reported.add(kind)
                logger.warning(
                    "a message of the control and event channels makes no sense and is passed over"
                    " (%s: %.200s); others of this kind are not logged",
                    kind,
                    error,
                )
            return None

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return the bindings of an exchange: routing key, pattern and queue. What is none is
        passed over."""
        return [row for row in super().get_table(exchange) if len(row) == 3]  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    Channel = Channel


class _OurTransport:
    """Uses our transport where kombu would use its own for Redis: a URL's scheme leaves no other
    way to say so."""

    def get_transport_cls(self) -> type[Any]:
        transport: type[Any] = super().get_transport_cls()  # type: ignore[misc]
        return Transport if transport is redis.Transport else transport


class BrokerConnection(_OurTransport, Connection):
    """Reads URLs as every connection of kombu does; so do those of its pools."""

    def Pool(self, limit: int | None = None, **options: Any) -> _Pool:  # noqa: N802 (kombu's name)
        return _Pool(self, limit, **options)  # type: ignore[no-untyped-call]


class _PooledConnection(_OurTransport, PooledConnection):
    """One of a pool, from which our own messages, events and answers to commands are sent."""


class _Pool(ConnectionPool):
    def new(self) -> _PooledConnection:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))  # type: ignore[no-untyped-call]


class Messages(AMQP):  # type: ignore[misc]
    """What a Celery app makes its connections of."""

    Connection = BrokerConnection
