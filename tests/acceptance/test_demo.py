"""The demo: its steps as plain functions on the real data, and whole runs of it by the command that
users give."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest

from orchestrator.settings.model import PREFIX

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """examples/digits.py as a module; pickle must find it by its name."""
    spec = importlib.util.spec_from_file_location("digits", ROOT / "examples" / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["digits"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["digits"]


@pytest.fixture(scope="module")
def images(demo: ModuleType) -> Any:
    return demo.collect()


@pytest.fixture(scope="module")
def parts(demo: ModuleType, images: Any) -> Any:
    return demo.split(demo.featurize(demo.clean(images)))


def orchestrator(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own, with no setting set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        [Path(sys.executable).parent / "orchestrator", *arguments], cwd=folder, env=inherited,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip


def processes_in(folder: Path) -> list[str]:
    """Return the processes whose working folder lies in this one: a demo that has ended leaves
    none."""
    found = psutil.process_iter(["cwd", "name"])
    return [
        process.info["name"]
        for process in found
        if str(process.info["cwd"]).startswith(str(folder))
    ]


def readme_outputs() -> list[str]:
    """Return what the README says that the demo prints: of a run that succeeds, and of one whose
    gate fails."""
    return re.findall(
        r"^```text\n(run .*?|….*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )


def is_as_shown(shown: str, printed: str) -> bool:
    """Tell whether an output is the shown one but for its numbers; `…` stands for any text or
    lines."""

    def without_numbers(text: str) -> str:
        return re.sub(r"\d[\d.]*", "#", re.sub(r"\d+ min \d+ s", "# s", text))

    lines = [
        r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in without_numbers(
            re.sub(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{10}", "RUN", shown)
        ).splitlines()
    ]
    plain = without_numbers(re.sub(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{10}", "RUN", printed))
    return re.fullmatch("".join(lines), plain) is not None


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a folder whose name leaves the printed results room in their line."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


def test_the_demo_registers_an_svc_that_passes_the_gate(short_path: Path) -> None:
    tmp_path = short_path
    ended = orchestrator(tmp_path, "run", str(ROOT / "examples" / "digits.py"))

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not processes_in(tmp_path)
    record = json.loads(orchestrator(tmp_path, "show", "last", "--json").stdout)
    steps = record["steps"]
    assert {step["state"] for step in steps.values()} == {"succeeded"}
    assert sum(name.startswith("train[") for name in steps) == 11 * 5
    registered = steps["register"]["output"]
    assert registered["configuration"].startswith("svc-")
    assert 0.98 <= registered["macro_f1"] <= 1.0
    model = Path(registered["model"])
    assert model.is_relative_to(tmp_path / ".orchestrator" / "models")
    assert hashlib.sha256(model.read_bytes()).hexdigest() == registered["sha256"]
    assert (
        json.loads((model.parent / "card.json").read_text())["metrics"] == steps["gate"]["output"]
    )

    # as `make demo` does
    printed = ended.stdout + orchestrator(tmp_path, "logs", "last", "compare").stdout
    assert is_as_shown(readme_outputs()[0], printed), printed


def test_a_gate_that_is_too_high_keeps_the_model_out_and_says_why(tmp_path: Path) -> None:
    ended = orchestrator(tmp_path, "run", str(ROOT / "examples" / "digits.py"), "-p", "gate=0.995")

    assert ended.returncode == 1, ended.stdout + ended.stderr
    steps = json.loads(orchestrator(tmp_path, "show", "last", "--json").stdout)["steps"]
    assert (steps["gate"]["state"], steps["register"]["state"]) == ("failed", "upstream_failed")
    assert steps["gate"]["attempts"][-1]["error"]["type"] == "digits:GateNotPassed"
    assert not (tmp_path / ".orchestrator" / "models").exists()
    assert is_as_shown(readme_outputs()[1], ended.stdout), ended.stdout


def test_the_yaml_demo_registers_and_checks_the_file(tmp_path: Path) -> None:
    record = json.loads(
        orchestrator(tmp_path, "run", str(ROOT / "examples" / "digits.yaml"), "--json").stdout
    )

    assert record["state"] == "succeeded"
    assert record["steps"]["check-file"]["output"].endswith("OK")
    assert record["steps"]["alert"]["state"] == "skipped"
    assert record["steps"]["sign-off"]["state"] == "succeeded"


def test_the_yaml_demo_raises_the_alarm_when_the_gate_fails(tmp_path: Path) -> None:
    target = str(ROOT / "examples" / "digits.yaml")

    ended = orchestrator(
        tmp_path, "run", target, "-p", "gate=1.01", "-p", "rival=logistic-c1", "--json"
    )

    assert ended.returncode == 1
    states = {name: step["state"] for name, step in json.loads(ended.stdout)["steps"].items()}
    assert states["gate"] == "failed"
    assert states["register"] == states["check-file"] == "upstream_failed"
    assert states["alert"] == states["sign-off"] == "succeeded"


@pytest.mark.parametrize(
    ("file", "steps"), [("digits.py", 65), ("digits.yaml", 15), ("hello.py", 3)]
)
def test_every_example_is_a_valid_pipeline(file: str, steps: int, tmp_path: Path) -> None:
    ended = orchestrator(tmp_path, "plan", str(ROOT / "examples" / file), "--json")

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["steps"] == steps


def test_sound_images_are_valid_and_kept(demo: ModuleType, images: Any) -> None:
    assert demo.validate(images) is images
    assert len(demo.clean(images).labels) == len(images.labels) == 1797


def test_every_fault_of_the_data_is_named_at_once(demo: ModuleType, images: Any) -> None:
    pixels, labels = images.pixels.copy(), images.labels.copy()
    pixels[:100, 0, 0] = np.nan
    labels[labels == 3] = 12
    pixels[100:200] = pixels[200]

    with pytest.raises(demo.DataInvalid) as caught:
        demo.validate(demo.Images(pixels, labels))

    message = str(caught.value)
    assert "5.6% of the images have missing or impossible pixels" in message
    assert "labels that are not digits: [12]" in message
    assert "digits [3] are rarer than 5%" in message
    assert "are copies of others" in message


@pytest.mark.parametrize("shape", [(10, 64), (10, 7, 8), (0, 8, 8)])
def test_data_of_another_shape_are_refused(demo: ModuleType, shape: tuple[int, ...]) -> None:
    with pytest.raises(demo.DataInvalid):
        demo.validate(demo.Images(np.zeros(shape), np.zeros(shape[0], dtype=np.int64)))


def test_cleaning_drops_unsound_images_and_copies(demo: ModuleType, images: Any) -> None:
    pixels = images.pixels[:10].copy()
    pixels[0, 0, 0] = np.nan
    pixels[1, 0, 0] = 17.0
    pixels[3] = pixels[2]

    kept = demo.clean(demo.Images(pixels, images.labels[:10]))

    assert kept.labels.tolist() == images.labels[[2, 4, 5, 6, 7, 8, 9]].tolist()
    assert np.array_equal(kept.pixels, pixels[[2, 4, 5, 6, 7, 8, 9]])


def test_features_of_an_image_do_not_depend_on_other_images(demo: ModuleType, images: Any) -> None:
    together = demo.featurize(images).features
    alone = demo.featurize(demo.Images(images.pixels[5:6], images.labels[5:6])).features

    assert together.shape == (1797, 80)
    assert np.array_equal(together[5:6], alone)
    assert together.min() >= 0.0
    assert together.max() <= 1.0


def test_the_split_is_stratified_seeded_and_without_overlap(
    demo: ModuleType, images: Any, parts: Any
) -> None:
    samples = demo.featurize(images)
    again, other = demo.split(samples), demo.split(samples, seed=1)
    development, held_out = parts["development"], parts["held_out"]

    assert (len(development.labels), len(held_out.labels)) == (1347, 450)
    assert sorted(set(development.folds.tolist())) == [1, 2, 3, 4, 5]
    rows = {row.tobytes() for row in development.features}
    assert not rows & {row.tobytes() for row in held_out.features}
    for part in (
        held_out.labels,
        *(development.labels[development.folds == fold] for fold in range(1, 6)),
    ):
        shares = np.bincount(part, minlength=10) / len(part)
        assert 0.08 < shares.min() < shares.max() < 0.12
    assert np.array_equal(again["held_out"].features, held_out.features)
    assert not np.array_equal(other["held_out"].features, held_out.features)


def test_every_configuration_learns_without_a_warning(demo: ModuleType, parts: Any) -> None:
    scores = [
        demo.train(parts["development"], configuration, 1) for configuration in demo.CONFIGURATIONS
    ]

    assert [score["configuration"] for score in scores] == list(demo.CONFIGURATIONS)
    assert min(score["macro_f1"] for score in scores) > 0.9


def test_the_best_mean_wins_and_of_equals_the_faster(demo: ModuleType) -> None:
    def score(configuration: str, macro_f1: float, fit_s: float) -> dict[str, Any]:
        return {"configuration": configuration, "fold": 1, "macro_f1": macro_f1, "fit_s": fit_s}

    compared = demo.compare(
        [
            score("slow", 0.9, 2.0),
            score("fast", 0.8, 1.0),
            score("slow", 0.9, 2.0),
            score("fast", 1.0, 1.0),
        ]
    )

    assert compared["best"] == "fast"
    assert [row["macro_f1"] for row in compared["ranking"]] == [0.9, 0.9]
    assert [row["deviation"] for row in compared["ranking"]] == [0.1, 0.0]


def test_the_gate_lets_through_what_reaches_it_exactly(demo: ModuleType) -> None:
    metrics = {"macro_f1": 0.97, "f1_by_digit": [1.0, 0.5]}

    assert demo.pass_gate(metrics, 0.97) is metrics
    with pytest.raises(
        demo.GateNotPassed, match=r"0\.9700 is below the gate 0\.9701; the weakest digit is 1"
    ):
        demo.pass_gate(metrics, 0.9701)


def test_a_registered_model_can_be_loaded_and_predicts_the_same(
    demo: ModuleType, parts: Any, tmp_path: Path
) -> None:
    model = demo.refit(parts["development"], "svc-rbf-c10")
    metrics = demo.evaluate(model, parts["held_out"])

    first = demo.register(model, "svc-rbf-c10", metrics, str(tmp_path))
    again = demo.register(model, "svc-rbf-c10", metrics, str(tmp_path))

    assert first == again
    assert sorted(file.name for file in Path(first["model"]).parent.iterdir()) == [
        "card.json",
        "model.pickle",
    ]
    loaded = pickle.loads(Path(first["model"]).read_bytes())
    assert demo.evaluate(loaded, parts["held_out"]) == metrics
