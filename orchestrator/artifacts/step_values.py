"""The values that a step reads: outputs of other steps and params, looked up by reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from orchestrator.artifacts.outputs import decode_output
from orchestrator.artifacts.plain import plain_json
from orchestrator.artifacts.values import ArtifactStore
from orchestrator.definition.paths import value_at
from orchestrator.definition.pipeline import OutputRef, ParamRef
from orchestrator.definition.wire import from_wire, to_wire
from orchestrator.errors import SecretsLost


class Outputs(Protocol):
    """Texts of outputs by step, as the ledger has them."""

    def get(self, step: str, default: str, /) -> str:
        """Return the output of a step."""


class OutputPages:
    """Outputs of very many steps, of which one page is held at a time. `read` returns all pages, in
    the order in which the steps are asked for."""

    def __init__(self, read: Callable[[], Iterator[Mapping[str, str]]]) -> None:
        self._read = read
        self._pages: Iterator[Mapping[str, str]] = iter(())
        self._page: Mapping[str, str] = {}

    def get(self, step: str, default: str, /) -> str:
        if self._find(step):
            return self._page[step]
        self._pages = self._read()  # asked for out of order, or for the first time
        return self._page[step] if self._find(step) else default

    def _find(self, step: str) -> bool:
        while step not in self._page:
            page = next(self._pages, None)
            if page is None:
                return False
            self._page = page
        return True


class StepValues:
    """Looks up references in `outputs` (texts of the ledger by step), params in the wire form, and
    `secrets` by param. Each output is decoded once."""

    def __init__(
        self,
        outputs: Outputs,
        params_wire: Mapping[str, Any],
        secrets: Mapping[str, str],
        store: ArtifactStore,
    ) -> None:
        self._outputs, self._params_wire, self._secrets = outputs, params_wire, secrets
        self._store = store
        self._decoded: dict[str, Any] = {}

    def output(self, step: str, path: tuple[str | int, ...] = ()) -> Any:
        """Return the output of a step, or a part of it. Raises LookupError, SecretsLost,
        ArtifactMissing."""
        if step not in self._decoded:
            text = self._outputs.get(step, "")
            self._decoded[step] = decode_output(text, self._store, self._secret)
        return value_at(self._decoded[step], path, f"output of step {step!r}")

    def param(self, name: str, path: tuple[str | int, ...] = ()) -> Any:
        """Return a param, or a part of it. Raises LookupError."""
        secret = self._secrets.get(name)
        value = from_wire(self._params_wire[name]) if secret is None else secret
        return value_at(value, path, f"param {name!r}")

    def of_reference(self, reference: OutputRef | ParamRef) -> Any:
        """Return the value for a command: that of a param is plain JSON."""
        if isinstance(reference, OutputRef):
            return self.output(reference.step, reference.path)
        value = self.param(reference.param, reference.path)
        return value if type(value) is str else plain_json(to_wire(value, typed=True))

    def _secret(self, name: str, path: tuple[str | int, ...]) -> str:
        """Return a secret that an output holds."""
        if name not in self._secrets:
            raise SecretsLost(
                f"an output holds the secret param {name!r}, which this run no longer has"
            )
        return self._secrets[name]
