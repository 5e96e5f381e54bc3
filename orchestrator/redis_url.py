"""One way to name a Redis server, and the form each client wants.

| server        | canonical, redis-py        | Celery (kombu), Flower                  |
|---------------|----------------------------|-----------------------------------------|
| TCP           | redis://host:port/db       | the same                                |
| TCP with TLS  | rediss://host:port/db      | the same                                |
| Unix socket   | unix:///path?db=0          | redis+socket:///path?virtual_host=0     |

`valkey://`, `valkeys://`, `valkey+unix://` and `redis+socket://` are accepted and normalised too.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

_CANONICAL_SCHEMES = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+unix": "unix",
    "redis+socket": "unix",
    "valkey+unix": "unix",
}


def normalise_redis_url(url: str) -> str:
    """Give the canonical form of `url`; ValueError says what is wrong with it, without its password."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is not a URL ({error})") from None
    scheme = _CANONICAL_SCHEMES.get(parts.scheme.lower())
    if scheme is None:
        raise ValueError("it must begin with redis://, rediss://, valkey:// or unix:///")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    db = query.pop("virtual_host", None)
    db = query.pop("db", db)
    if scheme == "unix":
        if parts.hostname or port or len(parts.path) < 2:
            raise ValueError("a socket needs an absolute path after three slashes, as in unix:///run/redis.sock")
        path = parts.path
        query["db"] = _database(db)
    else:
        if not parts.hostname:
            raise ValueError("it names no host, as in redis://localhost:6379/0")
        path = f"/{_database(db or parts.path.strip('/'))}"
    # Not urlunsplit: some Pythons drop the "//" before an empty host.
    return f"{scheme}://{parts.netloc}{path}{'?' if query else ''}{urlencode(query)}"


def redis_client_url(url: str) -> str:
    """Give `url` as redis-py wants it (`redis.Redis.from_url`)."""
    return normalise_redis_url(url)


def celery_broker_url(url: str) -> str:
    """Give `url` as Celery's broker setting and Flower's `--broker-api` want it."""
    canonical = normalise_redis_url(url)
    parts = urlsplit(canonical)
    if parts.scheme != "unix":
        return canonical
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["virtual_host"] = query.pop("db")
    return f"redis+socket://{parts.netloc}{parts.path}?{urlencode(query)}"


def masked_url(url: str) -> str:
    """Give `url` with its password hidden, for people and logs."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return "***"
    return url.replace(f":{password}@", ":***@", 1) if password else url


def _database(text: str | None) -> str:
    if not text:
        return "0"
    if not text.isdecimal():
        raise ValueError(f"the database must be a number, not {text!r}")
    return str(int(text))
