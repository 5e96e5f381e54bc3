"""A first pipeline: `orchestrator run examples/hello.py -p count=5`."""

from orchestrator import pipeline, step


@step
def numbers(count: int) -> list[int]:
    return list(range(1, count + 1))


@step(retries=2)
def total(values: list[int]) -> int:
    return sum(values)


@step
def report(values: list[int], result: int) -> str:
    return f"{len(values)} numbers, total {result}"


@pipeline
def hello(count: int = 3) -> None:
    """Add some numbers."""
    values = numbers(count)
    report(values, total(values))
