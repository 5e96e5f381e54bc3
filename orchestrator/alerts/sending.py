"""One message to one target: what Apprise says comes back as an error without secrets."""

from __future__ import annotations

from orchestrator.alerts.library import listening, load_apprise
from orchestrator.alerts.message import Message
from orchestrator.alerts.targets import Target


def send(target: Target, message: Message) -> str:
    """Tell the target, and give why that failed; an empty text when it did not. Takes as long as the service takes."""
    if target.fault:
        return target.fault
    apprise = load_apprise()
    with listening() as heard:
        try:
            teller = apprise.Apprise(asset=target.service.asset)
            teller.add(target.service)
            is_told = teller.notify(
                body=message.body,
                title=message.title,
                notify_type=apprise.NotifyType.FAILURE,
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception as error:  # of the service's own code
            heard.append(f"{type(error).__name__}: {error}")
            is_told = False
    if is_told:
        return ""
    return target.hide(heard[-1]) if heard else "the service refused it and said no reason"
