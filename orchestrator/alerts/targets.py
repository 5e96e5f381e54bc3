"""Alert targets: Apprise URLs, what is taken into them from the environment, how they are shown
without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from orchestrator.alerts.library import load_apprise
from orchestrator.errors import did_you_mean
from orchestrator.settings.model import PREFIX

ERROR_CHARS = 300
# a shorter word is hidden only where it stands alone, so that not half the text becomes stars
PLAIN_SECRET_CHARS = 8

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
_SCHEMA = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")  # up to the @ before the host
_BETWEEN_WORDS = re.compile(r"[/?&=:@#+,;\s]+")
_HIDDEN = "***"


@dataclass(frozen=True, slots=True, eq=False)
class AlertTarget:
    """One alert target. Only `label` and `fault` are for people: all else may hold secrets.

    `unset` are the variables that this process has not; another one may have them. `service` is
    Apprise's, None where there is a fault.
    """

    label: str
    written: str = field(repr=False)
    fault: str = ""
    unset: tuple[str, ...] = ()
    service: Any = field(default=None, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def mark(self) -> str:
        """Return a name for the ledger: the same in every process, whatever was taken from the
        environment."""
        return sha256(self.written.encode()).hexdigest()[:16]

    def hide(self, text: str) -> str:
        """Return a text of Apprise's, in one line, without what only this target's URL could have
        put into it."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            if len(secret) >= PLAIN_SECRET_CHARS:
                text = text.replace(secret, _HIDDEN)
            else:
                text = re.sub(rf"(?<!\w)(?<!\w\.){re.escape(secret)}(?!\w|\.\w)", _HIDDEN, text)
        text = " ".join(text.split())
        return text if len(text) <= ERROR_CHARS else f"{text[:ERROR_CHARS]}…"


def read_targets(written: Iterable[str], environment: Mapping[str, str]) -> list[AlertTarget]:
    """Return the targets without repeats; those that would look alike are numbered."""
    targets = [read_target(url, environment) for url in dict.fromkeys(written)]
    labels = [target.label for target in targets]
    return [
        (
            target
            if labels.count(target.label) == 1
            else replace(target, label=f"{target.label} ({labels[:place].count(target.label) + 1})")
        )
        for place, target in enumerate(targets)
    ]


def read_target(written: str, environment: Mapping[str, str]) -> AlertTarget:
    """Return the target of an Apprise URL as it was written, with a `fault` where it is of no
    use."""
    used = tuple(dict.fromkeys(braced or plain for braced, plain in _VARIABLE.findall(written)))
    label = _unread_label(written, used)
    if own := [name for name in used if name.upper().startswith(PREFIX)]:
        return AlertTarget(
            label,
            written,
            f"it reads {own[0]}, and {PREFIX}* is not given away. Use another variable.",
        )
    if unset := tuple(name for name in used if not environment.get(name)):
        noun = "variables {} are" if len(unset) > 1 else "variable {} is"
        return AlertTarget(
            label, written, f"the environment {noun.format(', '.join(unset))} not set", unset
        )
    url = _filled_in(written, environment)
    values = {
        text for name in used for text in (environment[name], quote(environment[name], safe=""))
    }
    secrets = frozenset((_words(url) | values) - _words(label))

    try:
        apprise = load_apprise()
        service = apprise.Apprise.instantiate(url, asset=_asset(apprise), suppress_exceptions=False)
    except Exception as error:  # of the service's own code
        said = AlertTarget(label, written, secrets=secrets).hide(str(error)) or type(error).__name__
        return AlertTarget(label, written, f"Apprise cannot use it: {said}")
    if service is None:
        return AlertTarget(label, written, _unread_fault(url, apprise))
    if not re.search(r"[?&]overflow=", url):
        # a text refused for its length would be refused for ever
        service.overflow_mode = apprise.OverflowMode.TRUNCATE
    label = _label(service, written, used)
    return AlertTarget(label, written, service=service, secrets=secrets - _words(label))


def _filled_in(written: str, environment: Mapping[str, str]) -> str:
    """Return the URL with the variables' values: in user and password each as text, elsewhere as a
    part of the URL."""
    login = _LOGIN.match(written)
    end = login.end() if login else 0
    filled = _VARIABLE.sub(
        lambda found: quote(environment[found[1] or found[2]], safe=""), written[:end]
    )
    return (
        filled + _VARIABLE.sub(lambda found: environment[found[1] or found[2]], written[end:])
    ).strip()


def _asset(apprise: ModuleType) -> Any:
    # Without a time limit of its own: with one, Apprise sends from a pool of few threads, which
    # those that hang fill.
    return apprise.AppriseAsset(
        app_id="Orchestrator",
        app_desc="Alerts of pipelines",
        async_mode=False,
        service_timeout=0,
        storage_mode="memory",
    )


def _label(service: Any, written: str, used: Sequence[str]) -> str:
    """Return the service's schema, and the host where Apprise says that it is one and shows it
    itself.

    A host that was not written as such may be a part of a secret: of a password with an @ in it,
    say.
    """
    masked = urlsplit(service.url(privacy=True))
    host, login = getattr(service, "host", None) or "", _LOGIN.match(written)
    is_plain = host in written and (login is None or login[0].count("@") == 1)
    if host and is_plain and "host" in service.template_tokens and masked.hostname == host.lower():
        return f"{masked.scheme}://{host}" + (
            f":{service.port}" if f":{service.port}" in written else ""
        )
    return _unread_label(written, used, masked.scheme)


def _unread_label(written: str, used: Sequence[str], schema: str = "") -> str:
    """Return schema and names of variables: all that can be shown of a URL that nobody has
    understood."""
    if used and _VARIABLE.fullmatch(written.strip()):
        return f"${used[0]}"
    found = _SCHEMA.match(written)
    schema = schema or (found[1].lower() if found else "")
    hidden = " ".join(f"${name}" for name in used) or _HIDDEN
    return f"{schema}://{hidden}" if schema else hidden


def _unread_fault(url: str, apprise: ModuleType) -> str:
    schema = _SCHEMA.match(url)
    if not schema:
        return "it is not an Apprise URL, as in 'slack://$TOKEN/#ml'."
    name = schema[1].lower()
    known = sorted(apprise.manager_plugins.NotificationManager().schemas())
    if name in ("http", "https"):
        return (
            "Apprise knows no service at that address. A webhook is 'json://host/path', or"
            " 'jsons://…' with TLS."
        )
    if name not in known:
        return f"Apprise knows no service {name!r}.{did_you_mean(name, known)}"
    return f"Apprise cannot read it as an address of its service {name!r}."


def _words(url: str) -> set[str]:
    """Return all that a URL consists of, as written and unquoted."""
    return {word for text in (url, unquote(url)) for word in _BETWEEN_WORDS.split(text) if word}
