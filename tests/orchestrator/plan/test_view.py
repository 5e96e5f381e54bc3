"""What people and programs see of a plan."""

from __future__ import annotations

import json

from orchestrator.definition.pipeline import TriggerRule
from orchestrator.plan.compile import compile_pipeline
from orchestrator.plan.view import plan_text, plan_view


def page(pipeline, **options):
    plan = compile_pipeline(pipeline)
    view = plan_view(plan, largest_message_bytes=812, compile_s=0.0015)
    return plan_text(plan, view, **options)


def test_the_view_holds_the_whole_plan_as_json(pipeline_of):
    plan = compile_pipeline(
        pipeline_of({"a": "", "b": "a", "c": "a b", "d": "c", "e": "c", "f": "d e c"})
    )

    view = plan_view(plan, largest_message_bytes=812, compile_s=0.5)

    assert json.loads(json.dumps(view)) == {
        "pipeline": "p",
        "steps": 6,
        "edges": 8,
        "redundant_edges": 2,
        "chains": [["a", "b", "c"], ["d"], ["e"], ["f"]],
        "chords": [
            {"header": [0], "body": 1},
            {"header": [0], "body": 2},
            {"header": [1, 2], "body": 3},
        ],
        "roots": [0],
        "largest_message_bytes": 812,
        "compile_s": 0.5,
        "critical_path": ["a", "b", "c", "d", "f"],
        "redundant": [["a", "c"], ["c", "f"]],
        "levels": [["a"], ["b"], ["c"], ["d", "e"], ["f"]],
        "upstream": {
            "a": [],
            "b": ["a"],
            "c": ["a", "b"],
            "d": ["c"],
            "e": ["c"],
            "f": ["d", "e", "c"],
        },
    }


def test_the_page_shows_the_steps_as_a_user_sees_them(pipeline_of):
    steps = {"a": "", "b": "a", "c": "a b", "d": "c", "e": "c", "f": "d e", "alert": "f d"}
    steps |= {f"fit[{i}][x]": "c" for i in range(3)}

    text = page(pipeline_of(steps, {"alert": TriggerRule.ONE_FAILED}))

    assert (
        text
        == """\
pipeline p: 10 steps, 12 edges

Steps, from top to bottom; those in one row can run side by side. Each starts as soon as what it \
waits for has ended
  1  a
  2  b
  3  c
  4  d, e, fit[..][..] (3)
  5  f
  6  alert

Critical path: the longest, 6 steps
  a → b → c → d → f → alert

Trigger rules: all other steps need the success of every upstream
  alert: one_failed

Redundant edges: a longer path says the same
  a → c
"""
    )


def test_the_page_shows_what_it_compiles_to(pipeline_of):
    steps = {"a": "", "b": "a", "c": "a b", "d": "c", "e": "c", "f": "d e", "alert": "f d"}

    text = page(pipeline_of(steps, {"alert": TriggerRule.ONE_FAILED}), in_celery=True)

    assert (
        text
        == """\
pipeline p: 7 steps, 9 edges (1 redundant), 5 chains, 4 chords
compiled in 1.5 ms; the largest message is 812 bytes

Chains: steps in a straight line, sent to the workers together
  0: a → b → c
  1: d
  2: e
  3: f
  4: alert

Chords: chains on the right wait for all those on the left, and for nothing else
  waiting for nothing: 0
  [0] ⇒ 1 2   (c ⇒ d, e)
  [1 2] ⇒ 3   (d, e ⇒ f)
  [3 1] ⇒ 4   (f, d ⇒ alert)

Canvas: the same in Celery's notation
  c0 = chain(a, b, c)
  c1 = chain(d)
  c2 = chain(e)
  c3 = chain(f)
  c4 = chain(alert)
  group(c0)
  chord([c0], body=group(c1, c2))
  chord([c1, c2], body=c3)
  chord([c3, c1], body=c4)
"""
    )


def test_the_page_of_no_steps_is_its_heading(pipeline_of):
    assert page(pipeline_of({})) == "pipeline p: 0 steps, 0 edges\n"
    assert page(pipeline_of({}), in_celery=True) == (
        "pipeline p: 0 steps, 0 edges (0 redundant), 0 chains, 0 chords\n"
        "compiled in 1.5 ms; the largest message is 812 bytes\n"
    )


def test_long_lists_are_cut_with_a_count(pipeline_of):
    arms = {f"arm{i}": "start" for i in range(2000)}
    pipeline = pipeline_of({"start": "", **arms, "end": list(arms)})
    steps, compiled = page(pipeline), page(pipeline, in_celery=True)

    assert "2  arm0, arm1, arm2, arm3, arm4, arm5, arm6, arm7 … and 1,992 more\n" in steps
    assert "  … and 1,982 more\n" in compiled  # chains: 20 of 2,002
    assert "[1 2 3 4 5 6 7 8 … and 1,992 more] ⇒ 2001" in compiled
    assert "chord([c1, c2, c3, c4, c5, c6, c7, c8 … and 1,992 more], body=c2001)" in compiled
    assert len(steps) + len(compiled) < 4000


def test_a_cut_path_keeps_the_step_that_others_wait_for(pipeline_of):
    steps = {f"s{i}": [f"s{i - 1}"] if i else [] for i in range(100)}
    shown = "s0 → s1 → s2 → s3 → s4 → s5 → s6 → … and 92 more … → s99\n"

    assert f"  0: {shown}" in page(pipeline_of(steps), in_celery=True)
    assert f"  {shown}" in page(pipeline_of(steps))


def test_the_full_page_cuts_nothing(pipeline_of):
    arms = {f"arm[{i}]": "start" for i in range(100)}
    pipeline = pipeline_of({"start": "", **arms, "end": list(arms)})

    assert f"  2  {', '.join(arms)}\n" in page(pipeline, full=True)
    compiled = page(pipeline, full=True, in_celery=True)
    assert "…" not in compiled
    assert all(f"= chain({arm})\n" in compiled for arm in arms)


def test_a_level_holds_what_has_as_many_steps_above_it(pipeline_of):
    pipeline = pipeline_of({"z": "y", "y": "x", "x": "", "late": "x z", "free": ""})

    assert compile_pipeline(pipeline).levels == (("x", "free"), ("y",), ("z",), ("late",))
