"""The Python functions: `compare`, `adapt`, `distill`, `probe`, `replay`, `suggest_learning_rate`, and more."""

from bequest.api.adaptations import adapt
from bequest.api.comparisons import compare
from bequest.api.distillations import distill
from bequest.api.exports import export
from bequest.api.feature_files import FeatureFile, features
from bequest.api.predictions import PredictionFile, predict_each, predict_file
from bequest.api.probes import Probe, probe
from bequest.api.rates import RateSuggestion, suggest_learning_rate
from bequest.api.replays import repeat, replay
from bequest.api.runs import Run
from bequest.comparison.export import Exported

__all__ = [
    "Exported",
    "FeatureFile",
    "PredictionFile",
    "Probe",
    "RateSuggestion",
    "Run",
    "adapt",
    "compare",
    "distill",
    "export",
    "features",
    "predict_each",
    "predict_file",
    "probe",
    "repeat",
    "replay",
    "suggest_learning_rate",
]
