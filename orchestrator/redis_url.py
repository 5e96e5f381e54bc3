"""One way to name a Redis server, and the form each client wants.

| server        | canonical, redis-py        | Celery (kombu), Flower                  |
|---------------|----------------------------|-----------------------------------------|
| TCP           | redis://host:port/db       | the same                                |
| TCP with TLS  | rediss://host:port/db      | the same                                |
| Unix socket   | unix:///path?db=0          | redis+socket:///path?virtual_host=0     |

`valkey://`, `valkeys://`, `valkey+unix://` and `redis+socket://` are accepted and normalised too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

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

UNSERVED = (
    "Redis Cluster and Sentinel are not served, since all keys of a run must be on one server whose"
    " name is known"
)
_ENCODED = "; in a user name and a password, write what is not a letter or digit as %XX"
# What redis-py and kombu both take. Each with the form of its values.
TLS_OPTIONS = {
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_check_hostname": r"true|false",
    "ssl_ca_certs": r".+",
    "ssl_ca_path": r".+",
    "ssl_certfile": r".+",
    "ssl_keyfile": r".+",
    "ssl_password": r".*",
}
_SECRET_OPTION = re.compile(
    r"([?&][^=&]*(?:pass|pwd|secret|token|credential|auth)[^=&]*=)[^&#]*", re.IGNORECASE
)


def normalise_redis_url(url: str) -> str:
    """Return the canonical form of `url`; ValueError says what is wrong with it, without its
    password."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:  # its text quotes a piece of the URL, which may be one of a password
        raise ValueError(
            f"it is not a URL with a host and a port that is a number{_ENCODED}"
        ) from None
    scheme = _CANONICAL_SCHEMES.get(parts.scheme.lower())
    if scheme is None:
        if any(word in parts.scheme.lower() for word in ("cluster", "sentinel")):
            raise ValueError(f"{UNSERVED}. Name the primary of one, as in redis://host:6379/0")
        raise ValueError("it must begin with redis://, rediss://, valkey:// or unix:///")
    if parts.fragment:
        raise ValueError(f"it holds a '#'{_ENCODED}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    db = query.pop("virtual_host", None)
    db = query.pop("db", db)
    netloc = _with_login(parts.netloc, query.pop("username", None), query.pop("password", None))
    if scheme == "unix":
        if parts.hostname or port or len(parts.path) < 2:
            raise ValueError(
                "a socket needs an absolute path after three slashes, as in unix:///run/redis.sock"
            )
        path = parts.path
        query["db"] = _database(db)
    else:
        if not parts.hostname:
            raise ValueError("it names no host, as in redis://localhost:6379/0")
        path = f"/{_database(db or parts.path.strip('/'))}"
    _check_options(scheme, query)
    # Not urlunsplit: some Pythons drop the "//" before an empty host.
    return f"{scheme}://{netloc}{path}{'?' if query else ''}{urlencode(query)}"


def celery_broker_url(url: str) -> str:
    """Return `url` as Celery's broker setting and Flower's `--broker-api` want it."""
    canonical = normalise_redis_url(url)
    parts = urlsplit(canonical)
    if parts.scheme != "unix":
        return canonical
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["virtual_host"] = query.pop("db")
    return f"redis+socket://{parts.netloc}{parts.path}?{urlencode(query)}"


def masked_url(url: str) -> str:
    """Return `url` with everything secret in it hidden, for people and logs; it need not be a good
    URL."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "***"
    login, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        rest = f"{user}:***@{place}" if colon else f"***@{place}"  # alone, it may be a token
    return f"{scheme}://" + _SECRET_OPTION.sub(r"\1***", rest)


def _with_login(netloc: str, username: str | None, password: str | None) -> str:
    """Return the user, password and host of a URL, where the first two may have stood in its
    query."""
    if username is None and password is None:
        return netloc
    login, _, host = netloc.rpartition("@")
    user, _, given = login.partition(":")
    user = user if username is None else quote(username, safe="")
    given = given if password is None else quote(password, safe="")
    return f"{user}:{given}@{host}"


def _check_options(scheme: str, query: Mapping[str, str]) -> None:
    """Raise ValueError for an option that does not exist or has a value that its client would
    stumble over."""
    known = TLS_OPTIONS if scheme == "rediss" else {"db": r"\d+"}
    for name, value in query.items():
        if name not in known:
            hint = (
                " It belongs to rediss://."
                if name in TLS_OPTIONS
                else f" Known are {', '.join(('db', *TLS_OPTIONS))}."
            )
            raise ValueError(f"there is no option {_shown(name)}.{hint}")
        if not re.fullmatch(known[name], value):
            raise ValueError(f"its option {name} has a value that is none for it")


def _shown(name: str) -> str:
    return repr(name) if re.fullmatch(r"\w{1,40}", name) else "of that name"


def _database(text: str | None) -> str:
    if not text:
        return "0"
    if not (text.isascii() and text.isdecimal()):  # not quoted: it may be a piece of a password
        raise ValueError(f"the database must be a number, as in redis://localhost:6379/0{_ENCODED}")
    return str(int(text))
