"""The plans of small, telling graphs."""

from __future__ import annotations

import pytest

from orchestrator.definition.pipeline import TriggerRule
from orchestrator.errors import PipelineInvalid
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.plan import Plan


def waits(plan: Plan) -> dict[str, set[str]]:
    """Return each chord by names: first step of the body → last steps of the header."""
    return {plan.chains[c.body][0]: {plan.chains[i][-1] for i in c.header} for c in plan.chords}


def test_no_steps_give_an_empty_plan(pipeline_of):
    plan = compile_pipeline(pipeline_of({}))

    assert (plan.order, plan.chains, plan.chords, plan.roots, plan.critical_path) == (
        (),
        (),
        (),
        (),
        (),
    )
    assert plan.edge_count == 0


def test_one_step_is_one_chain_that_waits_for_nothing(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": ""}))

    assert (plan.chains, plan.chords, plan.roots, plan.critical_path) == (
        (("a",),),
        (),
        (0,),
        ("a",),
    )


def test_a_straight_line_is_one_chain(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": "", "b": "a", "c": "b"}))

    assert plan.chains == (("a", "b", "c"),)
    assert plan.chords == ()


def test_the_n_shape_holds_back_only_the_step_with_two_upstreams(pipeline_of):
    plan = compile_pipeline(pipeline_of({"A": "", "B": "", "C": "A", "D": "A B"}))

    assert waits(plan) == {"C": {"A"}, "D": {"A", "B"}}
    assert plan.roots == (0, 1)


def test_the_short_arm_of_a_diamond_does_not_wait_for_the_long_arm(pipeline_of):
    plan = compile_pipeline(
        pipeline_of({"a": "", "l1": "a", "s": "a", "l2": "l1", "l3": "l2", "z": "s l3"})
    )

    assert plan.chains == (("a",), ("l1", "l2", "l3"), ("s",), ("z",))
    assert waits(plan) == {"l1": {"a"}, "s": {"a"}, "z": {"s", "l3"}}
    assert plan.critical_path == ("a", "l1", "l2", "l3", "z")


def test_the_end_of_one_fork_is_the_start_of_the_next(pipeline_of):
    steps = {
        "a": "",
        "b1": "a",
        "b2": "a",
        "c": "b1 b2",
        "d": "c",
        "e1": "d",
        "e2": "d",
        "f": "e1 e2",
    }
    plan = compile_pipeline(pipeline_of(steps))

    assert ("c", "d") in plan.chains
    assert waits(plan) == {
        "b1": {"a"},
        "b2": {"a"},
        "c": {"b1", "b2"},
        "e1": {"d"},
        "e2": {"d"},
        "f": {"e1", "e2"},
    }


def test_group_after_group_keeps_every_pair(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": "", "b": "", "x": "a b", "y": "a b", "z": "b a"}))

    assert waits(plan) == {"x": {"a", "b"}, "y": {"a", "b"}, "z": {"a", "b"}}
    assert plan.redundant_edges == ()


def test_components_stay_apart(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": "", "m": "", "b": "a", "n": "m", "lone": ""}))

    assert plan.chains == (("a", "b"), ("m", "n"), ("lone",))
    assert (plan.chords, plan.roots) == ((), (0, 1, 2))


def test_redundant_edges_are_dropped_and_named(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": "", "b": "a", "c": "a b", "d": "c b a"}))

    assert plan.chains == (("a", "b", "c", "d"),)
    assert plan.edge_count == 6
    assert plan.redundant_edges == (("a", "c"), ("b", "d"), ("a", "d"))


def test_an_upstream_named_twice_counts_once(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": "", "b": "a a"}))

    assert plan.edge_count == 1
    assert plan.upstream == {"a": (), "b": ("a",)}
    assert plan.redundant_edges == ()


@pytest.mark.parametrize(
    "rule", [rule for rule in TriggerRule if rule is not TriggerRule.ALL_SUCCESS]
)
def test_a_step_with_another_rule_keeps_all_its_edges(pipeline_of, rule):
    plan = compile_pipeline(pipeline_of({"a": "", "b": "a", "alert": "a b"}, {"alert": rule}))

    assert plan.redundant_edges == ()
    assert plan.upstream["alert"] == ("a", "b")


@pytest.mark.parametrize(
    "rule", [rule for rule in TriggerRule if rule is not TriggerRule.ALL_SUCCESS]
)
def test_a_step_with_another_rule_proves_nothing_about_its_upstreams(pipeline_of, rule):
    # If `a` fails, `tidy` may run all the same; `c` must then see that `a` failed.
    plan = compile_pipeline(
        pipeline_of({"a": "", "tidy": "a", "b": "tidy", "c": "a tidy b"}, {"tidy": rule})
    )

    assert plan.redundant_edges == (("tidy", "c"),)
    assert plan.upstream["c"] == ("a", "b")


def test_a_listing_that_is_in_order_is_kept(pipeline_of):
    plan = compile_pipeline(pipeline_of({"a": "", "z": "", "b": "a", "y": "z", "c": "b"}))

    assert plan.order == ("a", "z", "b", "y", "c")
    assert plan.chains == (("a", "b", "c"), ("z", "y"))


def test_edges_keep_the_order_of_the_listing(pipeline_of):
    plan = compile_pipeline(pipeline_of({"join": "y x", "y": "src", "x": "src", "src": ""}))

    assert plan.upstream["join"] == ("y", "x")
    assert plan.downstream["src"] == ("y", "x")
    assert [plan.chains[i] for i in plan.chords[-1].header] == [("y",), ("x",)]


def test_a_loop_is_refused_by_name(pipeline_of):
    steps = {"load": "", "train": "load evaluate", "evaluate": "train", "report": "evaluate"}

    with pytest.raises(PipelineInvalid) as refused:
        compile_pipeline(pipeline_of(steps))

    assert refused.value.faults == (
        "steps form a loop: train -> evaluate -> train. Remove one of these inputs.",
    )


def test_a_step_that_waits_for_itself_is_refused(pipeline_of):
    with pytest.raises(PipelineInvalid, match="loop: a -> a"):
        compile_pipeline(pipeline_of({"a": "a"}))


def test_unknown_upstreams_are_refused_all_at_once_with_a_guess(pipeline_of):
    with pytest.raises(PipelineInvalid) as refused:
        compile_pipeline(pipeline_of({"train": "", "report": "trian", "ship": "xyz"}))

    assert refused.value.faults == (
        "step 'report' waits for 'trian', which is not a step. Did you mean 'train'?",
        "step 'ship' waits for 'xyz', which is not a step. There are 'train', 'report', 'ship'.",
    )
