"""A run whose files change under it, as its user sees it."""

from __future__ import annotations

STEPS = """
    import pathlib

    @step
    def edit():
        here = pathlib.Path(__file__).parent / "part.py"
        here.write_text("NUMBER = 2\\n")

    @step
    def use(edited):
        import part
        return part.NUMBER

    @pipeline
    def editing():
        use(edit())
"""


def test_show_and_verify_say_which_step_ran_other_code_and_what_changed(place):
    place.write("part.py", "NUMBER = 1\n")
    place.write("editing.py", STEPS)

    assert place.call("run", "editing.py").code == 0

    shown, verified = place.call("show", "last"), place.call("verify", "last")
    assert "ran other code than was submitted on host " in shown.out
    assert "part.py" in shown.out
    assert verified.code == 0
    assert "note: attempt 1 of step 'use' ran other code than was submitted" in verified.out
    (remark,) = place.call("verify", "last", "--json").json["remarks"]
    assert "part.py" in remark
    attempts = {
        name: step["attempts"]
        for name, step in place.call("show", "last", "--json").json["steps"].items()
    }
    assert list(attempts["use"][0]["code"]["differs"]) == ["part.py"]
    assert "code" not in attempts["edit"][0]
