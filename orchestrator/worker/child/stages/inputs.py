"""The second stage: the step's function or command, with the values that it reads."""

from __future__ import annotations

from functools import partial

from orchestrator.artifacts.step_values import OutputPages, StepValues
from orchestrator.definition.wire import from_wire
from orchestrator.errors import SecretsLost
from orchestrator.ledger.entries import CallKind
from orchestrator.shell.running import run_shell
from orchestrator.worker.call_clock import counted
from orchestrator.worker.child.begun import Begun


def load_inputs(begun: Begun) -> None:
    """Find what the step calls, and load what it is called with. What the step's module or its
    inputs raise passes through."""
    claim, process = begun.claim, begun.process
    if claim.secrets is None:
        raise SecretsLost(
            "the server has lost the secret params of this run. Cancel the run, and resume it with"
            " them: orchestrator resume RUN -p NAME=@FILE"
        )
    here = begun.here.id
    outputs = (
        OutputPages(partial(process.ledger.outputs_for, here.run_id, here.step))
        if claim.is_wide
        else claim.outputs
    )
    values = StepValues(outputs, claim.params_wire, claim.secrets, process.store)
    spec = claim.spec
    if spec.kind is CallKind.SHELL:
        command, limit_mb = from_wire(spec.command), process.settings.shell_output_mb
        begun.call = partial(run_shell, command, values.of_reference, limit_mb, counted)
        return
    with counted():
        function = begun.code.function(spec.uses)
    args = from_wire(spec.args, values.output, values.param)
    kwargs = from_wire(spec.kwargs, values.output, values.param)
    begun.call = partial(function, *args, **kwargs)
