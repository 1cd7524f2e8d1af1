"""scikit-learn's classifiers, fitted and turned into modules of tensors.

Every one has its library's defaults, with these exceptions. Logistic regression may take 1000 iterations, the linear
SVM 10,000, since with few labels and weak penalties the default is not enough. LDA shrinks its covariance (Ledoit and
Wolf), since with fewer samples than features it has no inverse. Gradient boosting, by histograms, asks for no 20
samples a leaf, of which a small class may have none, but for as many as let every class have five.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.optim.design import Array

if TYPE_CHECKING:
    from torch import nn

    from bequest.nn.heads.forest import Forest

ABSENT = -1e4
"""The logit of a class that no sample has that was fitted on."""


@dataclass(frozen=True)
class Classifier:
    """A kind of classifier.

    Attributes:
        make: (number of samples, number of classes, seed, settings) → an unfitted scikit-learn estimator.
        convert: (fitted estimator, number of outputs) → the module; `classes_` are positions of the outputs.
        settings: Candidates for what cross-validation chooses, the library's default first.
    """

    make: Callable[..., Any]
    convert: Callable[[Any, int], nn.Module]
    settings: tuple[Mapping[str, Any], ...] = field(default=({},))

    def fit(
        self, values: Array, labels: Array, num_classes: int, *, seed: int, settings: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """A module fitted on features.

        Args:
            values: float32 (samples, width).
            labels: int64 (samples,); some classes may be missing.
            num_classes: Outputs of the module.
            seed: Of what is random.
            settings: One of the candidates; None for the first.

        Returns:
            A module from float32 (batch, width) to logits (batch, classes), in eval mode.
        """
        present = np.unique(labels)
        if len(present) == 1:
            return _linear(np.zeros((1, values.shape[1])), np.zeros(1), present, num_classes)
        estimator = self.make(len(values), len(present), seed, self.settings[0] if settings is None else settings)
        return self.convert(estimator.fit(values.astype(np.float64), labels), num_classes).eval()


def _logistic(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000, **settings)


def _linear_svm(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(max_iter=10_000, random_state=seed, **settings)


def _nearest_mean(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.neighbors import NearestCentroid

    return NearestCentroid()


def _knn(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(settings["n_neighbors"], num_samples), algorithm="brute")


def _lda(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def _random_forest(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=seed)


def _gradient_boosting(num_samples: int, num_classes: int, seed: int, settings: Mapping[str, Any]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    least = int(np.clip(num_samples // (5 * num_classes), 1, 20))
    # No more bins than values: the same trees in less time.
    bins = int(np.clip(num_samples, 2, 255))
    return HistGradientBoostingClassifier(min_samples_leaf=least, max_bins=bins, random_state=seed)


def _linear(weight: Array, bias: Array, classes: Array, num_outputs: int) -> nn.Module:
    """A Linear layer; of two classes, one decision value is halved between them."""
    import torch

    if len(weight) == 1 and len(classes) == 2:
        weight, bias = (np.concatenate([-0.5 * part, 0.5 * part]) for part in (weight, bias))
    head = torch.nn.Linear(weight.shape[1], num_outputs)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(ABSENT)
        head.weight[torch.from_numpy(classes)] = torch.from_numpy(weight).float()
        head.bias[torch.from_numpy(classes)] = torch.from_numpy(bias).float()
    return head


def _from_linear(estimator: Any, num_outputs: int) -> nn.Module:
    return _linear(estimator.coef_, estimator.intercept_, estimator.classes_, num_outputs)


def _from_means(estimator: Any, num_outputs: int) -> nn.Module:
    """−‖x − m‖² / 2 is m·x − ‖m‖² / 2 and what all classes share."""
    means = estimator.centroids_.astype(np.float64)
    return _linear(means, -0.5 * np.square(means).sum(1), estimator.classes_, num_outputs)


def _from_neighbours(estimator: Any, num_outputs: int) -> nn.Module:
    import torch

    from bequest.nn.heads.neighbours import Neighbours

    samples = estimator._fit_X
    head = Neighbours(len(samples), samples.shape[1], num_outputs, estimator.n_neighbors)
    head.samples.copy_(torch.from_numpy(samples))
    head.labels.copy_(torch.from_numpy(estimator.classes_[estimator._y]))
    return head


@dataclass(frozen=True)
class _Tree:
    """One tree's nodes; leaves have children of their own number.

    Attributes:
        feature: (nodes,).
        threshold: float64 (nodes,).
        left: (nodes,).
        right: (nodes,).
        value: (nodes, channels).
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    value: Array

    def depth(self) -> int:
        """Steps from the root to the furthest leaf."""
        level, steps = np.zeros(1, np.int64), 0
        while len(level := level[self.left[level] != level]):
            level, steps = np.concatenate([self.left[level], self.right[level]]), steps + 1
        return steps


def _from_random_forest(estimator: Any, num_outputs: int) -> nn.Module:
    trees: list[_Tree] = []
    for member in estimator.estimators_:
        tree = member.tree_
        own, leaf = np.arange(tree.node_count), tree.children_left < 0
        value = np.zeros((tree.node_count, num_outputs))
        value[:, estimator.classes_] = tree.value[:, 0] / tree.value[:, 0].sum(1, keepdims=True)
        left, right = (np.where(leaf, own, side) for side in (tree.children_left, tree.children_right))
        trees.append(_Tree(np.where(leaf, 0, tree.feature), np.where(leaf, 0, tree.threshold), left, right, value))
    return _forest(trees, 1, np.zeros(num_outputs), shares=True)


def _from_boosting(estimator: Any, num_outputs: int) -> nn.Module:
    """Rounds of a tree for each class; of two classes there is one tree, whose value is halved between them."""
    classes, baseline = estimator.classes_, np.ravel(estimator._baseline_prediction)
    bias, none = np.full(num_outputs, ABSENT), np.zeros(1, np.int64)
    is_binary = len(classes) == 2
    halves = np.zeros(num_outputs)
    if is_binary:
        halves[classes] = [-0.5, 0.5]
    bias[classes] = halves[classes] * baseline if is_binary else baseline
    trees: list[_Tree] = []
    for members in estimator._predictors:
        if is_binary:
            trees.append(_boosted(members[0].nodes, halves))
            continue
        of_class = dict(zip(classes.tolist(), members, strict=True))
        for output in range(num_outputs):
            absent = _Tree(none, none.astype(float), none, none, np.zeros((1, 1)))
            trees.append(_boosted(of_class[output].nodes, np.ones(1)) if output in of_class else absent)
    return _forest(trees, 1 if is_binary else num_outputs, bias, shares=False)


def _boosted(nodes: Array, channels: Array) -> _Tree:
    own, leaf = np.arange(len(nodes)), nodes["is_leaf"].astype(bool)
    left, right = (np.where(leaf, own, nodes[side].astype(np.int64)) for side in ("left", "right"))
    feature = np.where(leaf, 0, nodes["feature_idx"])
    return _Tree(feature, np.where(leaf, 0, nodes["num_threshold"]), left, right, nodes["value"][:, None] * channels)


def _forest(trees: Sequence[_Tree], group: int, bias: Array, *, shares: bool) -> Forest:
    import torch

    from bequest.nn.heads.forest import Forest

    sizes = np.array([len(tree.feature) for tree in trees])
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    channels = trees[0].value.shape[1]
    head = Forest(len(trees), int(sizes.sum()), max(tree.depth() for tree in trees), channels, group, shares)
    tensors = {
        "root": roots,
        "feature": np.concatenate([tree.feature for tree in trees]),
        "threshold": _rounded_down(np.concatenate([tree.threshold for tree in trees])),
        "left": np.concatenate([tree.left + root for tree, root in zip(trees, roots, strict=True)]),
        "right": np.concatenate([tree.right + root for tree, root in zip(trees, roots, strict=True)]),
        "value": np.concatenate([tree.value for tree in trees]),
        "bias": bias,
    }
    for name, values in tensors.items():
        head.get_buffer(name).copy_(torch.from_numpy(values))
    return head


def _rounded_down(thresholds: Array) -> Array:
    """The greatest float32 that is no greater: a float32 is at most the one if and only if at most the other."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


CLASSIFIERS: dict[str, Classifier] = {
    "logistic": Classifier(_logistic, _from_linear, tuple({"C": c} for c in (1.0, 0.1, 0.01, 0.001))),
    "linear_svm": Classifier(_linear_svm, _from_linear, tuple({"C": c} for c in (1.0, 0.1, 0.01, 0.001))),
    "nearest_mean": Classifier(_nearest_mean, _from_means),
    "knn": Classifier(_knn, _from_neighbours, tuple({"n_neighbors": k} for k in (5, 1, 15))),
    "lda": Classifier(_lda, _from_linear),
    "random_forest": Classifier(_random_forest, _from_random_forest),
    "gradient_boosting": Classifier(_gradient_boosting, _from_boosting),
}
"""By the name that users write."""
