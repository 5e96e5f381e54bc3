"""One server, named as each client wants it."""

from __future__ import annotations

import pytest

from orchestrator.redis_url import celery_broker_url, masked_url, normalise_redis_url


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


def test_a_password_is_masked() -> None:
    assert masked_url("redis://u:secret@host/1") == "redis://u:***@host/1"
    assert masked_url("unix:///run/redis.sock?db=0") == "unix:///run/redis.sock?db=0"
