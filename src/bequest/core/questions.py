"""What parameter-efficient methods give up against full fine-tuning: records of what a comparison measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FULL = "full"
"""The method that parameter-efficient ones are held against."""

FAMILY = "parameter-efficient"
"""The family whose members are held against it."""


@dataclass(frozen=True)
class Spectrum:
    """What training added to one matrix: the singular values σ₁ ≥ σ₂ ≥ … of ΔW = finished − source.

    Values that rounding W to its precision alone would make are left out.

    Attributes:
        layer: The parameter's name in the body.
        rows: Of the matrix; a convolution's kernel is one of output channels × all else.
        columns: Of the matrix.
        adaptable: Whether a low-rank update can be added there: neither an embedding nor a grouped convolution.
        relative_norm: Frobenius norm of ΔW, as a share of W's.
        rank: How many singular values there are.
        effective_rank: exp(−Σ pᵢ ln pᵢ), pᵢ = σᵢ / Σσ (Roy & Vetterli 2007).
        rank_90: How many of the first hold 90 % of the energy Σσ².
        rank_99: How many of the first hold 99 % of it.
        energy: Share of it that the first 1, 2, 4, 8, … hold, up to all.
        values: σᵢ / σ₁ of the first 64.
    """

    layer: str
    rows: int
    columns: int
    adaptable: bool
    relative_norm: float
    rank: int
    effective_rank: float
    rank_90: int
    rank_99: int
    energy: list[float]
    values: list[float]


@dataclass(frozen=True)
class Pace:
    """How fast a network predicts.

    Attributes:
        latency_s: Seconds for one sample alone.
        inference_per_s: Samples a second in a batch.
    """

    latency_s: float
    inference_per_s: float


@dataclass(frozen=True)
class Merging:
    """A network before and after what was trained is merged into its plain layers.

    Attributes:
        before: With the trained parts beside the frozen layers.
        after: Of the plain network.
        adapter_bytes: What has to be stored beside the source before merging.
        network_bytes: What the merged network takes.
    """

    before: Pace
    after: Pace
    adapter_bytes: int
    network_bytes: int


@dataclass(frozen=True)
class Weights:
    """What training did to a network's weights.

    Attributes:
        spectra: Of every matrix that changed; empty where none did.
        merging: None where the method merges nothing.
    """

    spectra: list[Spectrum]
    merging: Merging | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Weights:
        """What `asdict` made `data` of."""
        merging = data["merging"]
        return cls([Spectrum(**s) for s in data["spectra"]], None if merging is None else _merging(merging))


@dataclass(frozen=True)
class Gap:
    """A method's test metric minus full fine-tuning's.

    Attributes:
        method: The method.
        mean: Of the differences, one for each seed that both finished.
        low: Lower end of its interval at 95 %, over seeds and test samples; None with one seed.
        high: Upper end.
        seeds: How many.
    """

    method: str
    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Reached:
    """A moment of a training, which is looked at before it and after each epoch.

    Attributes:
        steps: Optimizer steps until then.
        seconds: Of training and validation until then.
    """

    steps: int
    seconds: float


@dataclass(frozen=True)
class Race:
    """A method and full fine-tuning on their way to the same mark, at one seed.

    Attributes:
        seed: Of both.
        mark: Value of the metric on held-out labels.
        own: When the method first reached it; None if it did not.
        full: When full fine-tuning did.
        end: When the method's training ended.
    """

    seed: int
    mark: float
    own: Reached | None
    full: Reached
    end: Reached


@dataclass(frozen=True)
class Ratio:
    """The middle one of the seeds' ratios, the larger of two middles.

    Attributes:
        value: How many times as much as full fine-tuning.
        reached: Whether the mark was reached in the middle seed; else `value` is what the ratio is more than.
        seeds: Those in which full fine-tuning had to train to reach the mark.
    """

    value: float
    reached: bool
    seeds: int


@dataclass(frozen=True)
class Parity:
    """What a method takes to reach full fine-tuning's accuracy.

    Attributes:
        method: The method.
        races: One a seed.
        steps: Of optimizer steps; None where full fine-tuning was at the mark before training with every seed.
        seconds: Of training time.
    """

    method: str
    races: list[Race]
    steps: Ratio | None
    seconds: Ratio | None


@dataclass(frozen=True)
class Ranks:
    """The rank of what a method added to the matrices that a low-rank update can be added to.

    Attributes:
        method: The method.
        seed: At which it was measured; the spectra stand in that trial's record.
        layers: How many matrices.
        effective_rank: Median over them.
        lowest: The lowest effective rank.
        highest: The highest.
        rank_90: Median rank that holds 90 % of the energy.
        rank_99: Median rank that holds 99 % of it.
        energy: Median share of the energy that the first 1, 2, 4, 8, … singular values hold.
    """

    method: str
    seed: int
    layers: int
    effective_rank: float
    lowest: float
    highest: float
    rank_90: float
    rank_99: float
    energy: list[float]


@dataclass(frozen=True)
class Questions:
    """The open questions about parameter-efficient fine-tuning, as far as a comparison answers them.

    Attributes:
        metric: What gaps and marks are in.
        higher_is_better: Its direction.
        tolerance: How near to full fine-tuning's best value on held-out labels the mark is.
        relative: Whether `tolerance` is a share of that value, as of a metric that can have any size.
        gaps: One a method.
        parities: One a method that was trained.
        ranks: Full fine-tuning's first; only of methods that changed such matrices.
        suggested_rank: The smallest of 1, 2, 4, 8, … whose median share of full fine-tuning's energy is 90 % or more;
            None where full fine-tuning's spectra were not measured.
        merging: By method, of those that merge what they trained.
    """

    metric: str
    higher_is_better: bool
    tolerance: float
    relative: bool
    gaps: list[Gap]
    parities: list[Parity]
    ranks: list[Ranks]
    suggested_rank: int | None
    merging: dict[str, Merging]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Questions:
        """What `asdict` made `data` of."""
        values: dict[str, Any] = {
            **data,
            "gaps": [Gap(**g) for g in data["gaps"]],
            "parities": [_parity(p) for p in data["parities"]],
            "ranks": [Ranks(**r) for r in data["ranks"]],
            "merging": {method: _merging(m) for method, m in data["merging"].items()},
        }
        return cls(**values)


def _merging(data: dict[str, Any]) -> Merging:
    values: dict[str, Any] = {**data, "before": Pace(**data["before"]), "after": Pace(**data["after"])}
    return Merging(**values)


def _parity(data: dict[str, Any]) -> Parity:
    ratios = {k: None if data[k] is None else Ratio(**data[k]) for k in ("steps", "seconds")}
    values: dict[str, Any] = {**data, **ratios, "races": [_race(r) for r in data["races"]]}
    return Parity(**values)


def _race(data: dict[str, Any]) -> Race:
    reached = {k: None if data[k] is None else Reached(**data[k]) for k in ("own", "full", "end")}
    values: dict[str, Any] = {**data, **reached}
    return Race(**values)
