"""A source's layers as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from bequest.core.checks import check_count
from bequest.core.errors import DataError
from bequest.core.observe import Silent
from bequest.core.task import Modality, Samples, Task
from bequest.data.arrays import read_samples
from bequest.data.frames import is_frame
from bequest.data.samples import Chosen, hashes_of
from bequest.engine.context import Context
from bequest.engine.features import embeddings
from bequest.engine.runtime import Precision, choose_runtime
from bequest.engine.store import Store
from bequest.nn.taps import Tapped
from bequest.sources import Source, get, resolve
from bequest.sources.taps import column_names, named_taps

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray[Any, Any]


class FeatureExtractor(TransformerMixin, BaseEstimator):
    """Samples → what layers of a frozen pretrained network make of them, float32 (samples, width).

    Nothing is learned: `fit` loads the source and finds the layers. What was computed is stored, so that each sample
    goes through the network once, whatever pipeline, fold or process asks for it.

        make_pipeline(bequest.FeatureExtractor("minilm_l6"), LogisticRegression())

    Attributes:
        source_: The source.
        taps_: Where it is read.
        n_features_in_: Second dimension of the arrays that `fit` saw; only of sources that take arrays.
        feature_names_in_: Names of their columns where they have some; only of sources that take arrays.

    Args:
        source: A source's name (`bequest ls sources`), a `Source`, or an `nn.Module`.
        layers: `last` for the embedding; `all` for every layer of depth and the embedding; or layers' names, with
            commas between or in a list (`bequest ls layers SOURCE --taps`).
        pool_to: Numbers to pool each layer's output to, about; 0 for the mean over places.
        max_tokens: Token limit of a text source; None for its default.
        image_size: Side of an image source's input, pixels; None for its default.
        source_head: Name of the source's own last layer, which is taken off; None to find it, an empty string for a
            module that has none.
        pooling: From a source's tokens to its embedding: `mean`, `cls` or `last`; None as it was trained.
        batch_size: Samples in a forward pass.
        precision: `auto`, `float32` or `bfloat16`.
        cache: Folder of stored features; None for the user's.
    """

    def __init__(
        self,
        source: str | Source | nn.Module,
        *,
        layers: str | Sequence[str] = "last",
        pool_to: int = 0,
        max_tokens: int | None = None,
        image_size: int | None = None,
        source_head: str | None = None,
        pooling: str | None = None,
        batch_size: int = 32,
        precision: Precision = "auto",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        self.source = source
        self.layers = layers
        self.pool_to = pool_to
        self.max_tokens = max_tokens
        self.image_size = image_size
        self.source_head = source_head
        self.pooling = pooling
        self.batch_size = batch_size
        self.precision: Precision = precision
        self.cache = cache

    def fit(self, X: Any, y: Any = None) -> FeatureExtractor:
        """Load the source and find the layers.

        Args:
            X: A list of texts; a list of PIL images or of paths of images; or an array (samples, …).
            y: Not looked at.

        Raises:
            bequest.core.errors.BequestError: One of its kinds: there is no such source or layer, or the samples are not
                of its kind.
            ValueError: An array is not as scikit-learn wants it.
        """
        target = check_count("pool_to", self.pool_to, 0)
        check_count("batch_size", self.batch_size, 1)
        named = isinstance(self.source, str)
        source = source_of(self, None) if named else self.source
        samples = samples_of(self, X, source.modality if isinstance(source, Source) else None, reset=True)
        task = _task(samples)
        self.source_ = source if isinstance(source, Source) else source_of(self, task)
        self.taps_ = named_taps(self.source_, self.layers, target=target, task=task)
        return self

    def transform(self, X: Any) -> Array:
        """Features, float32 (samples, width).

        Args:
            X: As for `fit`.

        Raises:
            bequest.core.errors.BequestError: One of its kinds, as for `fit`, or a sample cannot be read.
            ValueError: An array is not as scikit-learn wants it, or of another width than that given to `fit`.
        """
        check_is_fitted(self)
        samples = samples_of(self, X, self.source_.modality, reset=False)
        # Samples that occur twice are computed once.
        _, first, place = np.unique(hashes_of(samples), axis=0, return_index=True, return_inverse=True)
        context = Context(
            self.source_,
            _task(Chosen(samples, first)),
            Store(None if self.cache is None else Path(self.cache)),
            choose_runtime(self.precision),
            Silent(),
            batch_size=self.batch_size,
        )
        return embeddings(context, range(len(first)), Tapped(self.source_.body, self.taps_)).stack()[place.ravel()]

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """`<layer>:<i>` for every feature; `input_features` is not looked at."""
        check_is_fitted(self)
        return np.array(column_names(self.taps_), dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        """A source that has a name is left out: it is made again from that."""
        held: Any = super().__getstate__()
        state: dict[str, Any] = {**held}
        if isinstance(self.source, str):
            state.pop("source_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.source, str) and "taps_" in state:
            self.source_ = source_of(self, None)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = replace(tags.transformer_tags, preserves_dtype=[])
        tags.input_tags = replace(tags.input_tags, string=True, three_d_array=True)
        return tags


def source_of(estimator: Any, task: Task | None) -> Source:
    """The source of an estimator that has `source` and the parameters that say how it is used.

    Args:
        estimator: `FeatureExtractor`, or another with the same parameters.
        task: What it is for; None where the source is a name.
    """
    names = ("max_tokens", "image_size", "pooling")
    options: dict[str, Any] = {name: getattr(estimator, name) for name in names}
    if isinstance(estimator.source, str):
        return get(estimator.source, head=estimator.source_head, **options)
    assert task is not None
    return resolve(estimator.source, task, head=estimator.source_head, **options)


def samples_of(estimator: Any, X: Any, modality: Modality | None, *, reset: bool) -> Samples:
    """The samples; arrays are looked at as scikit-learn's estimators do.

    Args:
        estimator: Which remembers the arrays' width and names.
        X: As scikit-learn gives it, or a list of texts, images or paths.
        modality: What the source takes; None where X tells.
        reset: Whether this is `fit`.

    Raises:
        DataError: X holds samples of another kind.
        ValueError: An array is not as scikit-learn wants it.
    """
    if modality == "array" or (modality is None and not _are_items(X)):
        X = validate_data(estimator, X, reset=reset, allow_nd=True)
    if modality == "image" and _are_items(X):
        X = [Path(item) if isinstance(item, str) else item for item in X]
    samples = read_samples(X, "X")
    if modality is not None and samples.modality != modality:
        raise DataError(
            f"The source takes samples of kind {modality}, but X holds samples of kind {samples.modality}. Give "
            "another source or other samples."
        )
    return samples


def _are_items(X: Any) -> bool:
    """Whether X holds texts, images or paths rather than numbers; what iterates over a frame is its columns' names."""
    if isinstance(X, (str, bytes)) or not hasattr(X, "__iter__") or hasattr(X, "toarray") or is_frame(X):
        return False
    first = next(iter(X), None)
    return isinstance(first, (str, PathLike)) or hasattr(first, "getbbox")


def _task(samples: Samples) -> Task:
    """The samples as a task without labels."""
    return Task("X", samples, np.zeros(len(samples), np.int64), ("",))
