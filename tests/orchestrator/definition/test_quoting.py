"""References in single quotes, where the shell fills nothing in."""

from __future__ import annotations

import pytest

from orchestrator import PipelineBuilder, PipelineInvalid
from orchestrator.definition.document import PipelineFile
from orchestrator.definition.quoting import single_quoted_references

X = "${{ params.x }}"
SAID = (
    f"step 'a': `{X}` stands in single quotes, where the shell fills nothing in. Use double quotes."
)


@pytest.mark.parametrize(
    "command",
    [
        f"echo '{X}'",
        f"echo 'two\nlines {X}'",
        f"echo \\\"'{X}'",
        f"echo \\\\'{X}'",
        f"echo \"it's\"; echo '{X}'",
        f"echo a#'{X}'",
        f"echo $#'{X}'",
        f"# it's said\necho '{X}'",
        f"python -c 'print(\"{X}\")'",
        f"echo \"${{HOME}}\" '{X}'",
        f"echo \"${{{{ steps.b.output['k'] }}}}\" '{X}'",
    ],
)
def test_a_reference_in_single_quotes_is_found(command: str) -> None:
    assert single_quoted_references(command) == [X]


@pytest.mark.parametrize(
    "command",
    [
        f"echo {X}",
        f'echo "{X}"',
        f"psql \"select * from t where day = '{X}'\"",
        f"echo it\\'s {X} \\'",
        f"echo 'it' {X} 's'",
        f"echo 'a'\"{X}\"'b'",
        f"echo # don't\necho {X}",
        f"echo 'a' # '{X}'",
        f"cat <<'END'\nit's\nEND\necho '{X}'",
        "echo '$${{ params.x }}'",
        "echo \"${{ steps.b.output['k'] }}\" ${{ steps.b.output['k'] }}",
        f'echo "$(echo "it\'s {X}")"',
        f'echo "`echo "it\'s {X}"`"',
        f"echo $'it\\'s' {X}",
        f"sh -ec 'echo \"{X}\"'",
        f"trap 'rm -r \"{X}\"' EXIT",
    ],
)
def test_no_other_reference_is_taken_for_one(command: str) -> None:
    assert single_quoted_references(command) == []


def test_it_is_a_fault_in_a_file_and_in_a_builder() -> None:
    builder = PipelineBuilder("p", params={"x": 1})
    builder.add("a", run=f"echo '{X}'")
    file = PipelineFile({"params": {"x": 1}, "steps": {"a": {"run": f"echo '{X}'"}}}, "p")

    for written in (builder, file):
        with pytest.raises(PipelineInvalid) as caught:
            written.build()
        assert caught.value.faults == (SAID,)
