"""Records of a probe: what each layer of each source is worth to a task, before anything is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LINEAR = "linear_probe"
"""The linear probe's held-out metric, among the scores by name."""


@dataclass(frozen=True)
class LayerRow:
    """One layer of one source.

    Attributes:
        source: The source's name.
        layer: The layer's name in the body; `embedding` for the body's own output.
        depth: 0 at the source's input, 1 at its last layer and its embedding.
        width: Numbers that it gives for a sample.
        linear: The metric that a linear probe reaches on the held-out labels; None where none was fitted.
        linear_loss: Its mean loss there; of a regression in units of the train part's standard deviation.
        penalty: Of that probe, chosen by cross-validation.
        scores: By name, on all labels that a method may see; None where a score is not defined.
    """

    source: str
    layer: str
    depth: float
    width: int
    linear: float | None
    linear_loss: float | None
    penalty: float | None
    scores: dict[str, float | None]

    @property
    def measures(self) -> dict[str, float | None]:
        """The linear probe's metric, then every score, by name."""
        return {LINEAR: self.linear, **self.scores}


@dataclass(frozen=True)
class ProbeRecord:
    """The outcome of a probe, best layer first.

    Attributes:
        rows: One a layer of a source, in the order of `ranked_by`.
        ranked_by: Name of the measure.
        metric: What the linear probe's held-out metric is.
        names: Of the measures that two rows or more have, in the order of `agreement`.
        agreement: Kendall's τ between every two measures over all rows; None where it is not defined.
        task: Name, classes, counts, fingerprint, notes.
        sources: Of each source name, modality, parameters, width, fingerprint.
        protocol: Sizes, seed, what was held out.
        environment: Versions, machine, precision.
        passes: By source, samples that its body was asked about and those that it had to compute.
        left_out: By source and layer, why a layer that was read is no row.
    """

    rows: list[LayerRow]
    ranked_by: str
    metric: str
    names: list[str]
    agreement: list[list[float | None]]
    task: dict[str, Any]
    sources: list[dict[str, Any]]
    protocol: dict[str, Any]
    environment: dict[str, Any]
    passes: dict[str, dict[str, int]]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    @property
    def best(self) -> LayerRow:
        """The first row."""
        return self.rows[0]

    @property
    def by_source(self) -> dict[str, list[LayerRow]]:
        """The rows of each source, best source first."""
        found: dict[str, list[LayerRow]] = {}
        for row in self.rows:
            found.setdefault(row.source, []).append(row)
        return found

    def choice(self, name: str) -> LayerRow:
        """The row that a measure puts first; of equals the one that is ranked higher."""
        values = {i: value for i, row in enumerate(self.rows) if (value := row.measures[name]) is not None}
        return self.rows[max(values, key=lambda i: values[i])]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings."""
        return asdict(self)
