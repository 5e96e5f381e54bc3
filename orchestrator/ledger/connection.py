"""The Redis client that every ledger call goes through."""

from __future__ import annotations

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from orchestrator.redis_url import normalise_redis_url
from orchestrator.refusals import with_refusals

# no call of the ledger takes as long; a connection that is silent for so long is dead
ANSWER_LIMIT_S = 30.0
# as many as there are threads that call at once: redis-py refuses the 101st otherwise
MAX_CONNECTIONS = 10_000


def connect(url: str, *, retries: int = 3, timeout_s: float | None = None) -> Redis:
    """Return a client that repeats a call up to `retries` times, at most 2 s apart.

    It does so when the server cannot be reached, or refuses for the time being
    (`orchestrator.refusals`).

    Repeating is safe: an operation of the ledger that is said twice changes no more than one said
    once, but for log lines and the event of a refusal, which may stand twice. `timeout_s` bounds
    the wait for an answer, which over TCP is ANSWER_LIMIT_S else: the system would wait for hours
    at a connection whose other end is gone without a word. A Unix socket's other end cannot go so,
    and a limit costs every call a system call more.
    """
    client_url = normalise_redis_url(url)
    is_unix = client_url.startswith("unix:")
    options = {} if is_unix else {"socket_keepalive": True}
    if timeout_s is None and not is_unix:
        timeout_s = ANSWER_LIMIT_S
    client = Redis.from_url(
        client_url,
        decode_responses=True,
        # what somebody else wrote may be no text: read it, and find it wrong later
        encoding_errors="backslashreplace",
        socket_connect_timeout=5,
        socket_timeout=timeout_s,
        health_check_interval=25,
        max_connections=MAX_CONNECTIONS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=2.0), retries),
        retry_on_error=[ConnectionError, TimeoutError],
        **options,
    )
    pool = client.connection_pool
    pool.connection_class = with_refusals(pool.connection_class)
    return client


def check_writes(client: Redis, prefix: str) -> None:
    """See that the server takes writes. Raises ServerRefuses."""
    client.set(f"{prefix}:knock", "", px=1)
