r"""Feature extraction: layers' features, standardised and reduced, and any classifier on top.

    x → (φ_l(x))_{l ∈ L} → (φ − mean) / scale → P φ → classifier

φ_l is what layer l of the frozen source gives, averaged over tokens or places. P is PCA's or a Gaussian random
projection, or left out. The classifier is scikit-learn's, with the library's defaults but for these: logistic
regression and the linear SVM may take more iterations; LDA shrinks its covariance (Ledoit and Wolf); gradient boosting,
`HistGradientBoostingClassifier`, allows leaves so small that every class could have five. LDA and boosting are slow on
thousands of features: with few samples rather leave `all` out of `dimensions`. What is open is chosen by stratified
cross-validation within the labels that may be seen, one after another: the layers at the first of the dimensions, then
the dimensions, then the classifier's own setting (C of 1, 0.1, 0.01 and 0.001; 5, 1 or 15 neighbours). The highest
held-out accuracy wins, among equals the lowest held-out cross-entropy. Paper: Donahue et al. 2014 (DeCAF),
arXiv:1310.1531, who compare the layers of a frozen network under logistic regression and a linear SVM.

The classifier becomes tensors, trees too, so that the adapted network is one module that saves without pickled objects
and exports. The SVM's decision values stand for logits: its probabilities are not calibrated. Of neighbours at one and
the same distance those that come first among the samples count; scikit-learn takes whichever its search meets first.
The features of the layers that are asked for are held in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bequest.core.errors import MethodError, SourceError
from bequest.core.plan import Plan, Solve
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("feature_extraction", family="representation", paper="Donahue et al. 2014, arXiv:1310.1531")
@dataclass(frozen=True)
class FeatureExtraction:
    """Chosen layers of the frozen source, standardised and reduced, under a classifier of scikit-learn's.

    Attributes:
        classifier: Which one.
        layers: Names with commas between (`bequest ls layers SOURCE`; the end of a name is enough), `embedding` among
            them for the body's output; `last` for that alone; `all` for every layer of depth side by side; `choose`
            for the best of each alone and all together.
        reduce: `pca`, `random` for a Gaussian random projection, or `none`.
        dimensions: What to choose from, with commas between: numbers of features after the reduction, and `all` for no
            reduction; so are numbers that features or samples do not reach.
        folds: Folds of the cross-validation, 2 or more.
    """

    classifier: Literal[
        "logistic", "linear_svm", "nearest_mean", "knn", "lda", "random_forest", "gradient_boosting"
    ] = "logistic"
    layers: str = "choose"
    reduce: Literal["none", "pca", "random"] = "pca"
    dimensions: str = "64,256,all"
    folds: int = 5

    def plan(self, source: Source, task: Task) -> Plan:
        """One Solve stage on the layers' features."""
        from bequest.nn.taps import Tapped
        from bequest.optim.extraction import ExtractionSolver
        from bequest.sources.taps import named_taps

        if task.kind != "classification":
            raise MethodError(
                f"feature_extraction fits classifiers, but this is a {task.kind} task; expected classification. "
                "linear_probe fits frozen features to any kind of labels."
            )
        if self.folds < 2:
            raise MethodError(f"folds is {self.folds}, expected 2 or more.")
        dimensions = _dimensions(self.dimensions)
        network = source.network()
        try:
            taps = named_taps(source, "all" if self.layers == "choose" else self.layers, task=task)
        except SourceError as error:
            raise MethodError(f"feature_extraction: {error}") from None
        if [tap.name for tap in taps] != [""]:
            network.body = Tapped(network.body, taps)
        solver = ExtractionSolver(
            classifier=self.classifier,
            taps=tuple(tap.name or "embedding" for tap in taps),
            choose=self.layers == "choose",
            reduce=self.reduce,
            dimensions=dimensions,
            folds=self.folds,
        )
        return Plan(network, (Solve(solver, source_features=True),))


def _dimensions(text: str) -> tuple[int | None, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    faults = [word for word in words if word != "all" and not (word.isdecimal() and int(word) >= 1)]
    if faults or not words:
        raise MethodError(f"dimensions is {text!r}, expected numbers from 1 on, or all, with commas between.")
    found: list[Any] = [None if word == "all" else int(word) for word in words]
    return tuple(dict.fromkeys(found))
