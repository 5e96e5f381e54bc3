"""One server, named as each client wants it."""

from __future__ import annotations

import pytest

from orchestrator.ledger.connection import connect
from orchestrator.messages.app import create_app
from orchestrator.redis_url import TLS_OPTIONS, celery_broker_url, masked_url, normalise_redis_url
from orchestrator.settings.model import Settings


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("redis://host", "redis://host/0"),
        ("redis://u:p%40ss@host:6380/2", "redis://u:p%40ss@host:6380/2"),
        ("redis://host?db=3", "redis://host/3"),
        ("valkey://host:1/1", "redis://host:1/1"),
        ("rediss://host/1?ssl_cert_reqs=none", "rediss://host/1?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("unix://:pw@/run/redis.sock?db=2", "unix://:pw@/run/redis.sock?db=2"),
        ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
        ("valkey+unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
    ],
)
def test_every_form_has_one_canonical_form(given: str, canonical: str) -> None:
    assert normalise_redis_url(given) == canonical
    assert normalise_redis_url(canonical) == canonical
    assert normalise_redis_url(celery_broker_url(given)) == canonical


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("http://host", "must begin with"),
        ("/run/redis.sock", "must begin with"),
        ("unix://run/redis.sock", "three slashes"),
        ("redis:///1", "names no host"),
        ("redis://host/one", "must be a number"),
        ("redis://host:port/1", "not a URL"),
    ],
)
def test_a_url_that_names_no_server_is_refused(given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        normalise_redis_url(given)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:gehe%2Fim@host/1", "redis://:gehe/im@host/1", "redis://u:gehe/im@host:port/1?db=x",
        "redis://host/1?password=gehe%2Fim", "rediss://host/1?ssl_cert_reqs=none&ssl_password=gehe/im",
        "unix:///run/redis.sock?db=0&PASSWORD=gehe/im", "redis://u:gehe/im@ho@host", "redis://[gehe/im@host/1",
        "redis://:gehe@im@host", "rediss://host?auth_token=gehe/im", "gehe/im",
    ],
)  # fmt: skip
def test_no_form_of_a_url_shows_its_password(url: str) -> None:
    shown = masked_url(url)
    try:
        shown += masked_url(normalise_redis_url(url))
    except ValueError as error:
        shown += str(error)
    assert "gehe" not in shown
    assert "im@" not in shown


def test_what_is_no_secret_is_shown() -> None:
    assert masked_url("redis://u:secret@host/1") == "redis://u:***@host/1"
    assert masked_url("unix:///run/redis.sock?db=0") == "unix:///run/redis.sock?db=0"
    url = "rediss://host/1?ssl_certfile=%2Fetc%2Fcert.pem"
    assert masked_url(url) == url


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("redis://host?socket_timeout=5", "no option 'socket_timeout'"),
        ("redis://host?nonsense=1", "no option 'nonsense'. Known are db, ssl_cert_reqs"),
        ("redis://host?ssl_cert_reqs=none", "belongs to rediss://"),
        ("rediss://host?ssl_cert_reqs=maybe", "option ssl_cert_reqs has a value"),
        ("redis://:pa#ss@host", "a number|'#'"),
        ("sentinel://host:26379/0", "Sentinel are not served"),
        ("redis+cluster://host", "Cluster and Sentinel"),
    ],
)
def test_an_option_or_a_kind_of_server_that_is_not_served_is_refused_in_a_sentence(
    given: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        normalise_redis_url(given)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("redis://host?password=p@ss", "redis://:p%40ss@host/0"),
        ("redis://host:1/2?username=me&password=x", "redis://me:x@host:1/2"),
        ("unix:///run/redis.sock?password=x", "unix://:x@/run/redis.sock?db=0"),
    ],
)
def test_a_login_in_the_query_is_one_like_any_other(given: str, canonical: str) -> None:
    assert normalise_redis_url(given) == canonical


@pytest.mark.parametrize("option", TLS_OPTIONS)
def test_celery_and_the_ledger_take_every_option(option: str) -> None:
    value = {"ssl_check_hostname": "true", "ssl_cert_reqs": "required"}.get(option, "anything")
    url = normalise_redis_url(f"rediss://127.0.0.1:1/0?{option}={value}")

    connect(url).connection_pool.make_connection()
    app = create_app(Settings(), url)
    connection = app.connection_for_read()
    assert connection.transport_cls == "rediss"
    assert option in str(connection.ssl)
