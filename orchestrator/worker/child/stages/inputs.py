"""The second stage: the step's function or command, with the values that it reads."""

from __future__ import annotations

from functools import partial
from typing import Any

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.plain import plain_json
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.definition.paths import value_at
from orchestrator.definition.pipeline import OutputRef, ParamRef
from orchestrator.definition.wire import from_wire, to_wire
from orchestrator.errors import SecretsLost
from orchestrator.ledger.entries import CallKind
from orchestrator.ledger.values import Claim
from orchestrator.worker.call_clock import counted
from orchestrator.worker.child.begun import Begun
from orchestrator.worker.child.shell import run_shell


def load_inputs(begun: Begun) -> None:
    """Find what the step calls, and load what it is called with. What the step's module or its
    inputs raise passes through."""
    claim, process = begun.claim, begun.process
    if claim.secrets is None:
        raise SecretsLost(
            "the server has lost the secret params of this run. Cancel the run, and resume it with"
            " them: orchestrator resume RUN -p NAME=@FILE"
        )
    spec, values = claim.spec, _Values(claim, process.store)
    if spec.kind is CallKind.SHELL:
        command, limit_mb = from_wire(spec.command), process.settings.shell_output_mb
        begun.call = partial(run_shell, command, values.of_reference, limit_mb)
        return
    with counted():
        function = begun.code.function(spec.uses)
    args = from_wire(spec.args, values.output, values.param)
    kwargs = from_wire(spec.kwargs, values.output, values.param)
    begun.call = partial(function, *args, **kwargs)


class _Values:
    """References looked up in a claim; each output is decoded once."""

    def __init__(self, claim: Claim, store: ArtifactStore) -> None:
        self._claim = claim
        self._store = store
        self._decoded: dict[str, Any] = {}

    def output(self, step: str, path: tuple[str | int, ...]) -> Any:
        if step not in self._decoded:
            self._decoded[step] = decode_output(
                self._claim.outputs.get(step, ""), self._store, self._secret
            )
        return value_at(self._decoded[step], path, f"output of step {step!r}")

    def _secret(self, name: str, path: tuple[str | int, ...]) -> str:
        """Return a secret that an output holds."""
        secrets = self._claim.secrets or {}
        if name not in secrets:
            raise SecretsLost(
                f"an output holds the secret param {name!r}, which this run no longer has"
            )
        return secrets[name]

    def param(self, name: str, path: tuple[str | int, ...]) -> Any:
        secret = (self._claim.secrets or {}).get(name)
        value = from_wire(self._claim.params_wire[name]) if secret is None else secret
        return value_at(value, path, f"param {name!r}")

    def of_reference(self, reference: OutputRef | ParamRef) -> Any:
        """Return the value for a command: that of a param is plain JSON."""
        if isinstance(reference, OutputRef):
            return self.output(reference.step, reference.path)
        value = self.param(reference.param, reference.path)
        return value if type(value) is str else plain_json(to_wire(value, typed=True))
