"""What every entrance opens: settings, a server (the configured one or the embedded one), the
ledger, the app."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    ResponseError,
    TimeoutError,
)

from orchestrator.errors import RefusedInStep, ServerUnreachable
from orchestrator.ledger.connection import check_writes, connect
from orchestrator.ledger.ledger import Ledger
from orchestrator.redis_url import UNSERVED, masked_url
from orchestrator.refusals import ServerRefuses
from orchestrator.settings.model import Settings
from orchestrator.settings.sources import STEP_VARIABLE, current_settings

if TYPE_CHECKING:
    from celery import Celery

    from orchestrator.messages.dispatch import Dispatcher


FEW_RETRIES = 2
FIRST_ANSWER_S = 5.0


@dataclass(frozen=True)
class Installation:
    settings: Settings
    redis_url: str
    ledger: Ledger
    is_embedded: bool

    @cached_property
    def app(self) -> Celery:
        # Celery takes half a second; many commands do without
        from orchestrator.messages.app import (
            create_app,
        )

        return create_app(self.settings, self.redis_url)

    @cached_property
    def dispatcher(self) -> Dispatcher:
        from orchestrator.messages.dispatch import Dispatcher

        return Dispatcher(self.app, self.ledger)


@contextlib.contextmanager
def open_installation(
    retries: int = FEW_RETRIES, settings: Settings | None = None
) -> Iterator[Installation]:
    """Open the configured server, or the embedded one of the data folder, while the block lasts, by
    the settings of this process unless others are given.

    Once the server has answered, a call is repeated up to `retries` times while it is away.
    """
    if os.environ.get(STEP_VARIABLE):
        raise RefusedInStep(
            "a step may not use the orchestrator's server, since its pool does not say so: "
            "set server_in_steps = true for the pool, and restart its workers"
        )
    settings = settings or current_settings()
    with contextlib.ExitStack() as stack:
        url = settings.redis_url
        if url is None:
            from orchestrator.local.server import embedded_server

            url = stack.enter_context(embedded_server(settings.data_dir))
        ledger = Ledger(connect(url, retries=retries), settings.key_prefix)
        try:
            with connect(url, retries=1, timeout_s=FIRST_ANSWER_S) as first:
                _check_access(first, url)
                if retries > FEW_RETRIES:
                    # a program that waits out a server without writes does not begin with one
                    check_writes(first, settings.key_prefix)
            yield Installation(settings, url, ledger, settings.redis_url is None)
        except ServerRefuses as error:
            raise ServerUnreachable(
                f"the Redis server at {masked_url(url)} cannot be used: {error}"
            ) from None
        except (ConnectionError, TimeoutError) as error:
            raise ServerUnreachable(
                f"the Redis server at {masked_url(url)} does not answer: {error}"
            ) from None
        except (InvalidResponse, NoPermissionError) as error:
            raise ServerUnreachable(
                f"the Redis server at {masked_url(url)} cannot be used: {error}"
            ) from None
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise ServerUnreachable(
                f"the Redis server at {masked_url(url)} holds a key of another kind where one of"
                f" ours belongs, below '{settings.key_prefix}:' (setting key_prefix): {error}"
            ) from None
        finally:
            ledger.client.close()


def _check_access(client: Redis, url: str) -> None:
    """See that the server answers and lets us in."""
    try:
        client.ping()
        with contextlib.suppress(
            NoPermissionError
        ):  # a user who may not ask finds out by the first refusal
            info = client.info("server")
            kind = info.get("redis_mode") or info.get("server_mode")  # the second is Valkey's
            if kind in ("cluster", "sentinel"):
                raise ServerUnreachable(
                    f"the Redis server at {masked_url(url)} is of a {kind}: {UNSERVED}"
                )
    except (AuthenticationError, NoPermissionError) as error:
        server = f"the Redis server at {masked_url(url)}"
        if client.connection_pool.connection_kwargs.get("password"):
            raise ServerUnreachable(f"{server} refuses the password: {error}") from None
        raise ServerUnreachable(
            f"{server} asks for a password; write redis://:PASSWORD@host"
        ) from None
    except ResponseError as error:
        raise ServerUnreachable(
            f"the Redis server at {masked_url(url)} cannot be used: {error}"
        ) from None
