"""Graphs that other schedulers get wrong: each step once, never before its upstreams, no barrier
nobody wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

RENDEZVOUS = """
    import pathlib, time

    @step
    def work(name, *values):
        pathlib.Path(f"began-{name}").touch()
        return name

    @step
    def wait_for(other, *values):
        limit = time.monotonic() + 20
        while not pathlib.Path(f"began-{other}").exists():
            if time.monotonic() > limit:
                raise TimeoutError(f"{other} did not begin meanwhile")
            time.sleep(0.005)
        return other

    @step
    def fail(*values):
        raise ValueError("as planned")
"""


def write_graph(place, upstream: Mapping[str, Sequence[str]], name: str = "graph.json") -> str:
    """Write a pipeline of steps that do nothing."""
    steps = {
        step: {"uses": "builtins:int", **({"needs": list(needs)} if needs else {})}
        for step, needs in upstream.items()
    }
    return place.write(name, json.dumps({"name": "graph", "steps": steps}))


def states(record):
    return {name: step["state"] for name, step in record["steps"].items()}


def test_in_the_n_shape_c_starts_while_b_still_runs(place, assert_exact):
    """A -> C, A -> D, B -> D, where B ends only after C has begun."""
    file = place.write("n.py", RENDEZVOUS + """
    @pipeline
    def n():
        a, b = work.options(name="A")("A"), wait_for.options(name="B")("C")
        work.options(name="C")("C", a)
        work.options(name="D")("D", a, b)
    """)  # fmt: skip

    done = place.call("run", file, "--json")

    assert done.code == 0
    assert_exact(done.json)
    b, c = (done.json["steps"][name]["attempts"][0] for name in "BC")
    assert b["started_at"] < c["started_at"] < b["ended_at"]


def test_the_long_side_of_a_diamond_goes_on_while_the_short_side_runs(place, assert_exact):
    """Two unequal diamonds in a row; in each the short side ends only after the long side's last
    step has begun."""
    file = place.write("diamonds.py", RENDEZVOUS + """
    @pipeline
    def diamonds():
        top = work.options(name="top")("top")
        for number in (1, 2):
            side = top
            for depth in range(4):
                name = f"long-{number}-{depth}"
                side = work.options(name=name)(name, side)
            short = wait_for.options(name=f"short-{number}")(f"long-{number}-3", top)
            top = work.options(name=f"join-{number}")(f"join-{number}", side, short)
    """)  # fmt: skip

    done = place.call("run", file, "--json")

    assert done.code == 0
    assert len(done.json["steps"]) == 13
    assert_exact(done.json)


def test_two_fork_joins_in_a_row_each_run_side_by_side(place, assert_exact):
    """The members of each fork wait for each other, so that one at a time would never end."""
    file = place.write("forks.py", RENDEZVOUS + """
    import pathlib

    @step
    def meet(name, other, *values):
        pathlib.Path(f"began-{name}").touch()
        return wait_for.function(other)

    @pipeline
    def forks():
        joint = work.options(name="start")("start")
        for number in (1, 2):
            left = meet.options(name=f"left-{number}")(f"left-{number}", f"right-{number}", joint)
            right = meet.options(name=f"right-{number}")(f"right-{number}", f"left-{number}", joint)
            joint = work.options(name=f"join-{number}")(f"join-{number}", left, right)
    """)  # fmt: skip

    done = place.call("run", file, "--json")

    assert done.code == 0
    assert_exact(done.json)


def test_group_after_group_with_a_failing_member(place):
    """Every member of the second group waits for all of the first; a branch that does not, goes
    on."""
    file = place.write("groups.py", RENDEZVOUS + """
    @pipeline
    def groups():
        first = [work.options(name=f"first-{n}")(f"first-{n}") for n in range(3)] + [fail.options(name="first-bad")()]
        second = [work.options(name=f"second-{n}")(f"second-{n}", *first) for n in range(3)]
        work.options(name="end")("end", *second)
        aside = [work.options(name=f"aside-{n}")(f"aside-{n}", first[n]) for n in range(3)]
        work.options(name="aside-end")("aside-end", *aside)
    """)  # fmt: skip

    done = place.call("run", file, "--json")

    assert done.code == 1
    ran = [f"first-{n}" for n in range(3)] + [f"aside-{n}" for n in range(3)] + ["aside-end"]
    never = [f"second-{n}" for n in range(3)] + ["end"]
    assert states(done.json) == {
        **dict.fromkeys(ran, "succeeded"),
        **dict.fromkeys(never, "upstream_failed"),
        "first-bad": "failed",
    }
    for name in never:
        assert done.json["steps"][name]["attempts"] == []
        assert done.json["steps"][name]["because"] == "first-bad"
    assert "not run, because first-bad failed: second-0, second-1, second-2, end" in done.err


def test_nested_fork_join_with_an_inner_failure(place):
    """outer -> (left -> (inner a, inner b fails) -> left join, right -> right end) -> outer
    join."""
    file = place.write("nested.py", RENDEZVOUS + """
    @pipeline
    def nested():
        outer = work.options(name="outer")("outer")
        left, right = work.options(name="left")("left", outer), work.options(name="right")("right", outer)
        inner_a, inner_b = work.options(name="inner-a")("inner-a", left), fail.options(name="inner-b")(left)
        left_join = work.options(name="left-join")("left-join", inner_a, inner_b)
        right_end = work.options(name="right-end")("right-end", right)
        outer_join = work.options(name="outer-join")("outer-join", left_join, right_end)
        work.options(name="clean-up", trigger="always")("clean-up", outer_join)
    """)  # fmt: skip

    done = place.call("run", file, "--json")

    assert done.code == 1
    assert states(done.json) == {
        **dict.fromkeys(
            ["outer", "left", "right", "inner-a", "right-end", "clean-up"], "succeeded"
        ),
        **dict.fromkeys(["left-join", "outer-join"], "upstream_failed"),
        "inner-b": "failed",
    }


def test_ten_dense_layers_of_a_hundred(place, assert_exact):
    """90,000 edges: every step of a layer waits for all of the layer above."""
    layers = [[f"l{depth}-{n}" for n in range(100)] for depth in range(10)]
    upstream = dict.fromkeys(layers[0], ())
    for above, layer in pairwise(layers):
        upstream |= dict.fromkeys(layer, above)

    done = place.call("run", write_graph(place, upstream), "--json")

    assert done.code == 0
    assert_exact(done.json)


def test_five_thousand_steps(place, assert_exact):
    """Layers of 50 with three parents each, and long chains beside them."""
    upstream = {
        f"c{n}-{depth}": [f"c{n}-{depth - 1}"] * (depth > 0)
        for n in range(10)
        for depth in range(100)
    }
    for depth in range(80):
        for n in range(50):
            parents = {f"l{depth - 1}-{(n * k) % 50}" for k in (1, 3, 7)} if depth else set()
            upstream[f"l{depth}-{n}"] = sorted(parents)
    assert len(upstream) == 5_000

    done = place.call("run", write_graph(place, upstream), "--json")

    assert done.code == 0
    assert_exact(done.json)


def test_a_fan_of_two_thousand(place, assert_exact):
    upstream = {"fork": [], **{f"item-{n}": ["fork"] for n in range(2_000)}}
    upstream["join"] = [f"item-{n}" for n in range(2_000)]

    done = place.call("run", write_graph(place, upstream), "--json")

    assert done.code == 0
    assert_exact(done.json)


@pytest.mark.parametrize(
    ("upstream", "order"),
    [
        ({}, []),
        ({"c": ["b"], "b": ["a"], "a": []}, ["a", "b", "c"]),
        ({"a": [], "b": ["a"], "c": ["a", "b"], "lone.step-1[x]": [], "n" * 200: []}, None),
    ],
    ids=["no step", "listed backwards", "a redundant edge, components, odd names"],
)
def test_small_and_odd_graphs(place, assert_exact, upstream, order):
    done = place.call("run", write_graph(place, upstream), "--json")

    assert done.code == 0
    assert list(done.json["steps"]) == list(upstream)
    assert_exact(done.json)
    if order is not None:
        began = sorted(
            done.json["steps"],
            key=lambda name: done.json["steps"][name]["attempts"][0]["started_at"],
        )
        assert began == order
