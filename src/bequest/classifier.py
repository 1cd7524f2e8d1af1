"""Transfer learning as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from bequest.comparison.entries import enter
from bequest.core.errors import RunError
from bequest.core.observe import Silent
from bequest.core.task import Draw, Task, stratified
from bequest.engine.adapted import AdaptedModel, load
from bequest.engine.context import Context
from bequest.engine.run import run
from bequest.engine.runtime import Precision, choose_runtime
from bequest.engine.store import Store
from bequest.extractor import samples_of, source_of
from bequest.sources import Source

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray[Any, Any]

_RECORD = "classifier"
"""In a saved model's record: what `Classifier.load` needs beside the model."""


class Classifier(ClassifierMixin, BaseEstimator):
    """A pretrained network that is adapted to the classes in `fit`, by any of the methods.

    A fifth of the samples is held out for early stopping by methods that train; those that only solve choose their
    penalty by cross-validation and are fitted on all.

        GridSearchCV(bequest.Classifier("minilm_l6", "lora"), {"epochs": [3, 10]})

    Attributes:
        classes_: The classes, sorted.
        model_: The adapted model.
        n_features_in_: Second dimension of the arrays that `fit` saw; only of sources that take arrays.
        feature_names_in_: Names of their columns where they have some; only of sources that take arrays.

    Args:
        source: A source's name (`bequest ls sources`), a `Source`, or an `nn.Module`.
        method: A method's name (`bequest ls methods`).
        settings: Its hyperparameters, e.g. `{"rank": 4}`; None for the defaults.
        epochs: Of a method that trains; None for its default.
        learning_rate: Of a method that trains; None for its default.
        batch_size: Samples in a step of a method that trains; None for its default.
        max_tokens: Token limit of a text source; None for its default.
        image_size: Side of an image source's input, pixels; None for its default.
        source_head: As for `FeatureExtractor`.
        pooling: From a source's tokens to its embedding: `mean`, `cls` or `last`; None as it was trained.
        precision: `auto`, `float32` or `bfloat16`.
        cache: Folder of stored frozen outputs; None for the user's.
        random_state: Chooses what is held out, initialisation and order: a whole number gives the same each time.
    """

    def __init__(
        self,
        source: str | Source | nn.Module,
        method: str = "linear_probe",
        *,
        settings: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        image_size: int | None = None,
        source_head: str | None = None,
        pooling: str | None = None,
        precision: Precision = "auto",
        cache: str | PathLike[str] | None = None,
        random_state: Any = None,
    ) -> None:
        self.source = source
        self.method = method
        self.settings = settings
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.image_size = image_size
        self.source_head = source_head
        self.pooling = pooling
        self.precision: Precision = precision
        self.cache = cache
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Classifier:
        """Adapt the source to the classes.

        Args:
            X: A list of texts; a list of PIL images or of paths of images; or an array (samples, …).
            y: The class of each: str or whole numbers.

        Raises:
            bequest.core.errors.BequestError: One of its kinds: there is no such source, method or hyperparameter, or
                the samples are not of the source's kind.
            ValueError: X or y is not as scikit-learn wants it, or holds fewer than two classes.
        """
        named = source_of(self, None) if isinstance(self.source, str) else self.source
        samples = samples_of(self, X, named.modality if isinstance(named, Source) else None, reset=True)
        classes, labels = _classes(y, len(samples))
        task = Task("X", samples, labels, tuple(map(str, classes.tolist())))
        source = named if isinstance(named, Source) else source_of(self, task)
        seed = self._seed()
        [entry] = enter([self.method], {self.method: self._settings()}, source, task)
        store = Store(None if self.cache is None else Path(self.cache))
        context = Context(source, task, store, choose_runtime(self.precision), Silent())
        outcome = run(context, entry.method, _draw(labels, seed), seed=seed)
        self.classes_ = classes
        record = {"method": self.method, "seed": seed, "settings": entry.settings}
        learned = np.unique(task.hashes, axis=0)
        self.model_ = AdaptedModel(outcome.network, source, task.classes, record, learned=learned)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, float64 (samples, classes); the columns are those of `classes_`.

        Args:
            X: As for `fit`.

        Raises:
            bequest.core.errors.BequestError: One of its kinds, as for `fit`, or a sample cannot be read.
            ValueError: An array is not as scikit-learn wants it, or of another width than that given to `fit`.
        """
        check_is_fitted(self)
        samples = samples_of(self, X, self.model_.source.modality, reset=False)
        outputs = self.model_.outputs(samples[i] for i in range(len(samples)))
        return torch.softmax(outputs.double(), 1).numpy()

    def predict(self, X: Any) -> Array:
        """The most probable class of each sample. Arguments and errors as for `predict_proba`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the fitted classifier into a folder; `bequest.load` reads its model too.

        Raises:
            RunError: The folder cannot be written.
        """
        check_is_fitted(self)
        parameters = {**self.get_params(deep=False), "settings": dict(self.settings) if self.settings else None}
        own = {name: _plain(value) for name, value in parameters.items() if name in _KEPT}
        looked_at = {name: getattr(self, name) for name in _LOOKED_AT if hasattr(self, name)}
        kept = {"parameters": own, "classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str}
        kept["inputs"] = {name: _plain(value) for name, value in looked_at.items()}
        model = self.model_
        replace(model, record={**model.record, _RECORD: kept}).save(Path(folder))

    @classmethod
    def load(cls, folder: str | PathLike[str], *, source: Source | None = None) -> Classifier:
        """A classifier that `save` wrote, ready to predict.

        Args:
            folder: Where it lies.
            source: Needed where it was made from an `nn.Module` of yours, whose code no file holds.

        Raises:
            RunError: There is none, its files are damaged, or it needs a source.
        """
        model = load(Path(folder), source=source)
        try:
            kept = model.record[_RECORD]
            made = cls(source or model.source, **kept["parameters"])
            made.classes_ = np.array(kept["classes"], dtype=np.dtype(kept["dtype"]))
            for name in kept["inputs"].keys() & _LOOKED_AT.keys():
                setattr(made, name, _LOOKED_AT[name](kept["inputs"][name]))
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{folder} holds a model, but no classifier ({error}); expected what Classifier.save wrote. Read it "
                "with bequest.load."
            ) from error
        made.model_ = model
        return made

    def _settings(self) -> dict[str, Any]:
        shared = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_size")}
        given = {**(self.settings or {}), **{name: value for name, value in shared.items() if value is not None}}
        return {name: _plain(value) for name, value in given.items()}

    def _seed(self) -> int:
        state = self.random_state
        is_whole = isinstance(state, int | np.integer)
        return int(state) if is_whole else int(check_random_state(state).randint(2**31 - 1))

    def __getstate__(self) -> dict[str, Any]:
        """A source that has a name is left out: it is made again from that."""
        held: Any = super().__getstate__()
        state: dict[str, Any] = {**held}
        if isinstance(self.source, str) and "model_" in state:
            state["model_"] = replace(state["model_"], source=None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.source, str) and "model_" in state:
            self.model_ = replace(self.model_, source=source_of(self, None))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = replace(tags.input_tags, string=True, three_d_array=True)
        return tags


_KEPT = frozenset(("method", "settings", "epochs", "learning_rate", "batch_size", "precision"))
"""Parameters that a saved classifier keeps; the others belong to the source, which its model holds."""


_LOOKED_AT: dict[str, Callable[[Any], Any]] = {
    "n_features_in_": int,
    "feature_names_in_": lambda names: np.array(names, dtype=object),
}
"""What scikit-learn's look at an array leaves with an estimator, and how it is made of what JSON holds."""


def _plain(value: Any) -> Any:
    """The value without NumPy's types, of which searches make their candidates."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _classes(y: Any, num_samples: int) -> tuple[Array, Any]:
    """The classes, sorted, and the index of each sample's, as scikit-learn's estimators look at labels."""
    if y is None:
        raise ValueError("Classifier requires y to be passed, but the target y is None.")
    any_dtype: Any = None
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=any_dtype, input_name="y"), warn=True)
    check_classification_targets(y)
    check_consistent_length(range(num_samples), y)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y holds one class, {classes.tolist()[0]!r}; Classifier expects two or more classes.")
    return classes, labels.astype(np.int64)


def _draw(labels: Any, seed: int) -> Draw:
    """A fifth held out, in proportion to the classes; there is nothing to test on, so it stands in for that too."""
    everything = np.arange(len(labels))
    size = max(1, round(len(labels) / 5))
    held = stratified(labels, size, np.random.default_rng([seed, 2]))
    return Draw(np.setdiff1d(everything, held), held, held)
