"""`Classifier` keeps scikit-learn's rules, and is what its method makes of the source."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import bequest
from bequest.classifier import Classifier
from bequest.core.errors import DataError, MethodError, RunError
from bequest.sources import from_module

QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01, "random_state": 0}


class Anything(nn.Module):
    """Takes arrays of any width up to 24, as scikit-learn's checks give them; what is missing counts as 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(24, 16)
        self.second = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(nn.functional.pad(x.float(), (0, 24 - x.shape[1])))))

    def __reduce__(self) -> Any:
        # joblib's hash of a tensor is another one for an equal tensor; that of numpy's arrays goes by their content.
        return remade, (type(self), {name: t.numpy() for name, t in self.state_dict().items()}, self.training)


def remade(cls: type[nn.Module], state: dict[str, np.ndarray], training: bool) -> nn.Module:
    module = cls().train(training)
    for name, _ in list(module.named_children()):
        if not any(key.startswith(f"{name}.") for key in state):
            module.set_submodule(name, nn.Identity())  # its head was taken off
    module.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    return module


def rows(samples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 3
    return rng.normal(size=(samples, 6)) + 2 * labels[:, None], np.array(["low", "middle", "top"])[labels]


def texts(samples: int = 30) -> tuple[list[str], list[str]]:
    task = tiny.text_task(samples)
    return [task.samples[i] for i in range(samples)], [task.classes[label] for label in task.labels]


EXPECTED = {
    "check_methods_subset_invariance": "asks for equality to 1e-7, and a product of float32 matrices rounds otherwise "
    "for another number of rows; test_a_sample_alone_is_predicted_as_among_others asks for 1e-5"
}
"""Checks that cannot hold, by name, and why."""


@parametrize_with_checks([Classifier(Anything(), random_state=0)], expected_failed_checks=lambda _: EXPECTED)
def test_scikit_learns_own_checks(estimator: Any, check: Any, cache: Path) -> None:
    check(estimator)


@pytest.mark.parametrize("method", ["linear_probe", "full"])
def test_it_is_what_adapting_makes(method: str, cache: Path) -> None:
    x, y = rows()
    settings = QUICK if method == "full" else {"random_state": 0}
    made = Classifier(Anything(), method, **settings).fit(x, y)
    assert list(made.classes_) == ["low", "middle", "top"]
    proba = made.predict_proba(x)
    outputs = made.model_.outputs(list(x))
    np.testing.assert_allclose(proba, torch.softmax(outputs.double(), 1), rtol=1e-6)
    np.testing.assert_array_equal(made.predict(x), made.classes_[proba.argmax(1)])
    assert made.score(x, y) > 0.8
    np.testing.assert_array_equal(clone(made).fit(x, y).predict_proba(x), proba)


def test_a_sample_alone_is_predicted_as_among_others(cache: Path) -> None:
    x, y = rows()
    made = Classifier(Anything(), random_state=0).fit(x, y)
    alone = np.concatenate([made.predict_proba(x[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(alone, made.predict_proba(x)[:10], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jobs", [None, 2])
def test_in_a_pipeline_and_a_grid_search(jobs: int | None, cache: Path) -> None:
    x, y = rows()
    pipeline = make_pipeline(StandardScaler(), Classifier(Anything(), "full", **QUICK))
    search = GridSearchCV(
        pipeline, {"classifier__learning_rate": [1e-7, 0.03]}, cv=2, n_jobs=jobs, error_score="raise"
    ).fit(x, y)
    assert search.best_score_ > 0.6
    scaled = StandardScaler().fit_transform(x)
    alone = Classifier(
        Anything(), "full", **{**QUICK, "learning_rate": search.best_params_["classifier__learning_rate"]}
    )
    np.testing.assert_array_equal(search.predict_proba(x), alone.fit(scaled, y).predict_proba(scaled))


def test_texts(cache: Path) -> None:
    x, y = texts()
    made = Classifier(tiny.text_source(), random_state=1).fit(x, y)
    assert made.score(x, y) > 0.6
    np.testing.assert_array_equal(made.predict(np.array(x, dtype=object)), made.predict(x))


def test_pickled_or_saved_it_predicts_the_same(cache: Path, tmp_path: Path) -> None:
    x, y = rows()
    numbers = np.unique(y, return_inverse=True)[1] * 10
    source = from_module(Anything())
    made = Classifier(source, settings={"layer": None}, random_state=0).fit(x, numbers)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.predict_proba(x), made.predict_proba(x))
    made.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved", source=source)
    np.testing.assert_array_equal(loaded.predict_proba(x), made.predict_proba(x))
    assert loaded.predict(x).dtype == made.predict(x).dtype and set(loaded.predict(x)) <= {0, 10, 20}
    with pytest.raises(RunError, match=r"an nn\.Module of the user's; its code is not in the folder"):
        Classifier.load(tmp_path / "saved")
    made.model_.save(tmp_path / "model")
    with pytest.raises(RunError, match="holds a model, but no classifier"):
        Classifier.load(tmp_path / "model", source=source)


def test_a_named_source_is_made_again_from_its_name(cache: Path, tmp_path: Path) -> None:
    x, y = texts(12)
    first = Classifier(tiny.text_source(), random_state=0).fit(x, y)
    first.save(tmp_path / "first")
    made = Classifier(str(tmp_path / "first"), random_state=0).fit(x, y)
    assert len(pickle.dumps(made)) < 2 * len(pickle.dumps(made.model_.network))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).predict_proba(x), made.predict_proba(x))
    loaded = Classifier.load(tmp_path / "first")
    np.testing.assert_allclose(loaded.predict_proba(x), first.predict_proba(x), rtol=1e-6)
    assert bequest.load(tmp_path / "first").predict(x[:1])[0].label == first.predict(x[:1])[0]  # pyright: ignore


def test_numbers_of_a_search_are_saved_and_what_cannot_be_leaves_the_older_model(cache: Path, tmp_path: Path) -> None:
    x, y = rows()
    source, epochs = from_module(Anything()), np.arange(1, 2)[0]
    made = Classifier(source, "full", epochs=epochs, settings={"learning_rate": np.float32(0.25)}, random_state=0)
    made.fit(x, y).save(tmp_path / "saved")
    again = Classifier.load(tmp_path / "saved", source=source)
    assert (again.epochs, again.settings) == (1, {"learning_rate": 0.25})
    np.testing.assert_array_equal(again.predict(x), made.predict(x))
    made.epochs = object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        made.save(tmp_path / "saved")
    assert Classifier.load(tmp_path / "saved", source=source).epochs == 1


@pytest.mark.parametrize("source", [Anything(), from_module(Anything())], ids=["module", "source"])
def test_columns_of_another_order_or_number_are_refused(source: Any, cache: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    x, y = rows()
    frame = pandas.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])])
    made = Classifier(source, random_state=0).fit(frame, y)
    made.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved", source=made.model_.source)
    for found in (made, loaded):
        np.testing.assert_array_equal(found.predict(frame), made.predict(frame))
        with pytest.raises(ValueError, match="feature names should match"):
            found.predict(frame[frame.columns[::-1]])
        with pytest.raises(ValueError, match="features"):
            found.predict(x[:, 1:])


def test_what_does_not_fit_is_refused(cache: Path) -> None:
    x, y = rows()
    with pytest.raises(DataError, match="takes samples of kind text, but X holds samples of kind array"):
        Classifier(tiny.text_source()).fit(x, y)
    with pytest.raises(MethodError, match="lroa"):
        Classifier(Anything(), "lroa").fit(x, y)
    with pytest.raises(MethodError, match="epochs"):
        Classifier(Anything(), "linear_probe", epochs=3).fit(x, y)
    with pytest.raises(ValueError, match="y holds one class, 'low'; Classifier expects two or more"):
        Classifier(Anything()).fit(x, ["low"] * len(x))


def test_torch_comes_with_the_first_use_alone() -> None:
    code = "import sys, bequest; before = 'torch' in sys.modules; bequest.Classifier; print(before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    assert bequest.Classifier is Classifier
