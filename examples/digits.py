"""The demo: choose, test and register a classifier of handwritten digits.

collect -> validate -> clean -> featurize -> split -> train (11 configurations x 5 folds) -> compare
-> refit
-> evaluate -> gate -> register

    orchestrator run examples/digits.py
    orchestrator run examples/digits.py -p gate=0.995     # the gate fails, nothing is registered

The data are the 1,797 digits that scikit-learn carries (UCI "Optical Recognition of Handwritten
Digits"), so the demo needs no network. Every step is a plain function of its inputs; outside a
pipeline it can be called and tested.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict

import numpy as np

from orchestrator import pipeline, step

# scikit-learn takes a second to import: steps import it themselves, so that reading this file stays
# quick.
if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.base import ClassifierMixin

FOLDS = 5
CLASSES = 10
SIDE = 8  # pixels
INK_MAX = 16.0
CLASS_SHARE_MIN = 0.05
BAD_SHARE_MAX = 0.01

# Every configuration that is tried: name -> family of models and its settings. The name is part of
# the step's name.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "logistic-c0.1": ("logistic", {"C": 0.1}),
    "logistic-c1": ("logistic", {"C": 1.0}),
    "svc-rbf-c1": ("svc", {"kernel": "rbf", "C": 1.0}),
    "svc-rbf-c10": ("svc", {"kernel": "rbf", "C": 10.0}),
    "svc-poly3": ("svc", {"kernel": "poly", "degree": 3, "C": 1.0}),
    "forest-100": ("forest", {"n_estimators": 100}),
    "forest-200": ("forest", {"n_estimators": 200}),
    "boosting-leaf8": ("boosting", {"max_iter": 40, "learning_rate": 0.2, "max_leaf_nodes": 8}),
    "boosting-leaf16": ("boosting", {"max_iter": 30, "learning_rate": 0.2, "max_leaf_nodes": 16}),
    "mlp-64": ("mlp", {"hidden_layer_sizes": (64,)}),
    "mlp-128": ("mlp", {"hidden_layer_sizes": (128,)}),
}


class Images(NamedTuple):
    """Images of digits: `pixels` (n, 8, 8) with ink from 0 to 16, `labels` (n,) from 0 to 9."""

    pixels: NDArray[np.float64]
    labels: NDArray[np.int64]


class Samples(NamedTuple):
    """What models learn from: `features` (n, 80), `labels` (n,), and for each sample the fold that
    it tests."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]


class Split(TypedDict):
    """Samples to choose and fit a model with, and samples that only `evaluate` sees (their fold is
    -1)."""

    development: Samples
    held_out: Samples


class Score(TypedDict):
    """How one configuration did on one fold."""

    configuration: str
    fold: int
    macro_f1: float
    fit_s: float


class Comparison(TypedDict):
    """The configurations, best first, with the mean and the deviation of macro F1 over the
    folds."""

    best: str
    ranking: list[dict[str, Any]]


class Metrics(TypedDict):
    """How the model did on the held-out samples."""

    macro_f1: float
    accuracy: float
    samples: int
    f1_by_digit: list[float]
    confusion: list[list[int]]


class Registered(TypedDict):
    """Where the model lies, and what it is worth."""

    model: str
    sha256: str
    configuration: str
    macro_f1: float


class DataInvalid(ValueError):
    """The data are not fit for training; the message names every reason."""


class GateNotPassed(Exception):
    """The model is not good enough to be registered."""


@step
def collect() -> Images:
    """Return the raw images."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    print(f"collected {len(bunch.target)} images of {SIDE} x {SIDE} pixels")
    return Images(bunch.images, bunch.target)


@step
def validate(images: Images) -> Images:
    """Return the images back if they are fit for training; raises DataInvalid with every reason why
    not."""
    pixels, labels = images
    reasons = []
    if pixels.ndim != 3 or pixels.shape[1:] != (SIDE, SIDE):
        reasons.append(f"images have shape {pixels.shape}, not (n, {SIDE}, {SIDE})")
    if labels.shape != pixels.shape[:1]:
        reasons.append(f"there are {len(labels)} labels for {len(pixels)} images")
    if reasons or not len(labels):  # nothing below can be looked at
        raise DataInvalid("; ".join(reasons) or "there are no images")
    bad_share = float(np.mean(~_is_sound(pixels)))
    if bad_share > BAD_SHARE_MAX:
        reasons.append(
            f"{bad_share:.1%} of the images have missing or impossible pixels (limit"
            f" {BAD_SHARE_MAX:.0%})"
        )
    if strange := sorted(set(labels.tolist()) - set(range(CLASSES))):
        reasons.append(f"there are labels that are not digits: {strange}")
    shares = [float(np.mean(labels == digit)) for digit in range(CLASSES)]
    if rare := [digit for digit, share in enumerate(shares) if share < CLASS_SHARE_MIN]:
        reasons.append(f"digits {rare} are rarer than {CLASS_SHARE_MIN:.0%} of the images")
    repeated = len(pixels) - len(np.unique(pixels.reshape(len(pixels), -1), axis=0))
    if repeated > BAD_SHARE_MAX * len(pixels):
        reasons.append(f"{repeated} images are copies of others (limit {BAD_SHARE_MAX:.0%})")
    if reasons:
        raise DataInvalid("; ".join(reasons))
    print(
        f"valid: class shares {min(shares):.1%} to {max(shares):.1%}, {bad_share:.1%} unsound,"
        f" {repeated} copies"
    )
    return images


@step
def clean(images: Images) -> Images:
    """Drop unsound images and copies, so that no image can stand on both sides of a split."""
    sound = _is_sound(images.pixels)
    pixels, labels = images.pixels[sound], images.labels[sound]
    _, first = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)
    kept = np.sort(first)
    print(f"kept {len(kept)} of {len(images.labels)} images")
    return Images(pixels[kept], labels[kept])


@step
def featurize(images: Images) -> Samples:
    """Return 80 features an image: 64 pixels and the mean ink of its 8 rows and 8 columns, all from
    0 to 1.

    Each image is looked at alone. What is learned from many (scaling) belongs to the models, inside
    the folds.
    """
    ink = images.pixels / INK_MAX
    features = np.hstack([ink.reshape(len(ink), -1), ink.mean(axis=2), ink.mean(axis=1)])
    print(f"made {features.shape[1]} features for {len(features)} images")
    return Samples(features, images.labels, np.full(len(ink), -1))


@step
def split(
    samples: Samples, held_out_share: float = 0.25, folds: int = FOLDS, seed: int = 0
) -> Split:
    """Hold out a stratified share, and deal the rest into stratified folds. The same seed gives the
    same split."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    rows = np.arange(len(samples.labels))
    development, held_out = train_test_split(
        rows, test_size=held_out_share, stratify=samples.labels, random_state=seed
    )
    features, labels = samples.features[development], samples.labels[development]
    fold_of = np.full(len(development), -1)
    dealt = StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels)
    for fold, (_, tested) in enumerate(dealt, start=1):
        fold_of[tested] = fold
    print(f"{len(development)} samples in {folds} folds, {len(held_out)} held out")
    unseen = Samples(samples.features[held_out], samples.labels[held_out], samples.folds[held_out])
    return {"development": Samples(features, labels, fold_of), "held_out": unseen}


@step(timeout=120)
def train(development: Samples, configuration: str, fold: int, seed: int = 0) -> Score:
    """Fit one configuration on all folds but one (counted from 1) and score it on that one."""
    from sklearn.metrics import f1_score

    tested = development.folds == fold
    with _one_thread():
        started = time.perf_counter()
        model = make_model(configuration, seed).fit(
            development.features[~tested], development.labels[~tested]
        )
        fit_s = time.perf_counter() - started
        predicted = model.predict(development.features[tested])
    macro_f1 = float(f1_score(development.labels[tested], predicted, average="macro"))
    print(f"{configuration}, fold {fold}: macro F1 {macro_f1:.4f}, fitted in {fit_s:.2f} s")
    return {
        "configuration": configuration,
        "fold": fold,
        "macro_f1": macro_f1,
        "fit_s": round(fit_s, 3),
    }


@step
def compare(scores: list[Score]) -> Comparison:
    """Rank the configurations by their mean over the folds; of equals, the one that fits faster."""
    by_configuration: dict[str, list[Score]] = {}
    for score in scores:
        by_configuration.setdefault(score["configuration"], []).append(score)
    ranking: list[dict[str, Any]] = [
        {
            "configuration": configuration,
            "macro_f1": round(float(np.mean([score["macro_f1"] for score in group])), 4),
            "deviation": round(float(np.std([score["macro_f1"] for score in group])), 4),
            "fit_s": round(float(np.mean([score["fit_s"] for score in group])), 3),
        }
        for configuration, group in by_configuration.items()
    ]
    ranking.sort(key=lambda row: (-row["macro_f1"], row["fit_s"]))
    for row in ranking:
        print(
            "{configuration:<16} macro F1 {macro_f1:.4f} ± {deviation:.4f}"
            "  fit {fit_s:.2f} s".format(**row)
        )
    return {"best": ranking[0]["configuration"], "ranking": ranking}


@step
def refit(development: Samples, configuration: str, seed: int = 0) -> ClassifierMixin:
    """Fit a configuration on all development samples."""
    with _one_thread():
        model = make_model(configuration, seed).fit(development.features, development.labels)
    print(f"fitted {configuration} on {len(development.labels)} samples")
    return model


@step
def evaluate(model: ClassifierMixin, held_out: Samples) -> Metrics:
    """Score the model on samples that had no part in choosing or fitting it."""
    from sklearn.metrics import confusion_matrix, f1_score

    with _one_thread():
        predicted = model.predict(held_out.features)
    by_digit = f1_score(held_out.labels, predicted, labels=range(CLASSES), average=None)
    metrics: Metrics = {
        "macro_f1": float(np.mean(by_digit)),
        "accuracy": float(np.mean(predicted == held_out.labels)),
        "samples": len(held_out.labels),
        "f1_by_digit": np.round(by_digit, 4).tolist(),
        "confusion": confusion_matrix(held_out.labels, predicted, labels=range(CLASSES)).tolist(),
    }
    print(f"held out: macro F1 {metrics['macro_f1']:.4f}, accuracy {metrics['accuracy']:.4f}")
    return metrics


@step
def pass_gate(metrics: Metrics, minimum: float) -> Metrics:
    """Let metrics through that are good enough; raises GateNotPassed."""
    if metrics["macro_f1"] < minimum:
        worst = int(np.argmin(metrics["f1_by_digit"]))
        raise GateNotPassed(
            f"held-out macro F1 {metrics['macro_f1']:.4f} is below the gate {minimum:g}; "
            f"the weakest digit is {worst} with {metrics['f1_by_digit'][worst]:.4f}"
        )
    print(f"macro F1 {metrics['macro_f1']:.4f} passes the gate {minimum:g}")
    return metrics


@step
def register(
    model: ClassifierMixin, configuration: str, metrics: Metrics, folder: str
) -> Registered:
    """Write the model and its card into `folder`/digits-<SHA-256>; the same model is registered
    once.

    The model is a pickle: load it only from a folder that you trust.
    """
    data = pickle.dumps(model)
    sha256 = hashlib.sha256(data).hexdigest()
    place = Path(folder).absolute() / f"digits-{sha256[:16]}"
    place.mkdir(parents=True, exist_ok=True)
    card = {
        "configuration": configuration,
        "sha256": sha256,
        "size_bytes": len(data),
        "metrics": metrics,
    }
    _write_whole(place / "model.pickle", data)
    _write_whole(place / "card.json", json.dumps(card, indent=2).encode())
    print(f"registered {configuration} in {place}")
    return {
        "model": str(place / "model.pickle"),
        "sha256": sha256,
        "configuration": configuration,
        "macro_f1": metrics["macro_f1"],
    }


@pipeline
def digits(
    gate: Annotated[
        float, "Least macro F1 on the held-out samples with which a model is registered."
    ] = 0.97,
    seed: Annotated[int, "Seed of the split and of the models."] = 0,
    models: Annotated[str, "Folder that keeps the registered models."] = ".orchestrator/models",
) -> None:
    """Choose, test and register a classifier of handwritten digits."""
    parts = split(featurize(clean(validate(collect()))), seed=seed)
    scores = [
        train.options(name=f"train[{configuration}][fold-{fold}]")(
            parts["development"], configuration, fold, seed
        )
        for configuration in CONFIGURATIONS
        for fold in range(1, FOLDS + 1)
    ]
    best = compare(scores)["best"]
    model = refit(parts["development"], best, seed)
    passed = pass_gate.options(name="gate")(evaluate(model, parts["held_out"]), gate)
    register(model, best, passed, models)


def make_model(configuration: str, seed: int) -> Any:
    """Return an unfitted model of a configuration. Scaling is part of it, and learns from the fit's
    rows only."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    family, settings = CONFIGURATIONS[configuration]
    if family == "logistic":
        return make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=500, random_state=seed, **settings)
        )
    if family == "svc":
        return SVC(random_state=seed, **settings)
    if family == "forest":
        return RandomForestClassifier(n_jobs=1, random_state=seed, **settings)
    if family == "boosting":
        return HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **settings)
    # Stops by its own validation share; 300 is far more than it needs.
    mlp = MLPClassifier(max_iter=300, tol=1e-3, n_iter_no_change=5, random_state=seed, **settings)
    return make_pipeline(StandardScaler(), mlp)


def _is_sound(pixels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each image whether all its pixels are there and in range."""
    sound: NDArray[np.bool_] = np.all(
        (pixels >= 0) & (pixels <= INK_MAX), axis=(1, 2)
    )  # NaN is neither
    return sound


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP on one core: the steps run side by side already."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever reads half of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
