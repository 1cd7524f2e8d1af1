"""Bequest: hand a pretrained model's knowledge down to a new task, and see which way is worth its cost.

import bequest

run = bequest.compare("reviews.csv", source="minilm_l6", train_size=200)
run.predict(["arrived broken, and nobody answers"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from bequest.api import (
        Exported,
        FeatureFile,
        PredictionFile,
        Probe,
        RateSuggestion,
        Run,
        adapt,
        compare,
        distill,
        export,
        features,
        predict_each,
        predict_file,
        probe,
        replay,
        suggest_learning_rate,
    )
    from bequest.classifier import Classifier
    from bequest.data import from_arrays as task_from_arrays
    from bequest.data import from_dataset as task_from_dataset
    from bequest.data import from_texts as task_from_texts
    from bequest.data import load as load_task
    from bequest.engine.adapted import (
        AdaptedModel,
        LabelsPrediction,
        Prediction,
        TextPrediction,
        ValuesPrediction,
        load,
    )
    from bequest.extractor import FeatureExtractor
    from bequest.optim.galore import GaLore
    from bequest.sources import Source, from_module
    from bequest.sources import get as get_source

_LAZY = {
    "Probe": ("bequest.api", "Probe"),
    "Exported": ("bequest.api", "Exported"),
    "export": ("bequest.api", "export"),
    "FeatureFile": ("bequest.api", "FeatureFile"),
    "features": ("bequest.api", "features"),
    "PredictionFile": ("bequest.api", "PredictionFile"),
    "predict_each": ("bequest.api", "predict_each"),
    "predict_file": ("bequest.api", "predict_file"),
    "RateSuggestion": ("bequest.api", "RateSuggestion"),
    "Run": ("bequest.api", "Run"),
    "adapt": ("bequest.api", "adapt"),
    "compare": ("bequest.api", "compare"),
    "distill": ("bequest.api", "distill"),
    "probe": ("bequest.api", "probe"),
    "replay": ("bequest.api", "replay"),
    "suggest_learning_rate": ("bequest.api", "suggest_learning_rate"),
    "Classifier": ("bequest.classifier", "Classifier"),
    "load_task": ("bequest.data", "load"),
    "task_from_arrays": ("bequest.data", "from_arrays"),
    "task_from_dataset": ("bequest.data", "from_dataset"),
    "task_from_texts": ("bequest.data", "from_texts"),
    "AdaptedModel": ("bequest.engine.adapted", "AdaptedModel"),
    "LabelsPrediction": ("bequest.engine.adapted", "LabelsPrediction"),
    "Prediction": ("bequest.engine.adapted", "Prediction"),
    "TextPrediction": ("bequest.engine.adapted", "TextPrediction"),
    "ValuesPrediction": ("bequest.engine.adapted", "ValuesPrediction"),
    "load": ("bequest.engine.adapted", "load"),
    "FeatureExtractor": ("bequest.extractor", "FeatureExtractor"),
    "GaLore": ("bequest.optim.galore", "GaLore"),
    "Source": ("bequest.sources", "Source"),
    "from_module": ("bequest.sources", "from_module"),
    "get_source": ("bequest.sources", "get"),
}

__all__ = [
    "AdaptedModel",
    "Classifier",
    "Exported",
    "FeatureExtractor",
    "FeatureFile",
    "GaLore",
    "LabelsPrediction",
    "Prediction",
    "PredictionFile",
    "Probe",
    "RateSuggestion",
    "Run",
    "Source",
    "TextPrediction",
    "ValuesPrediction",
    "__version__",
    "adapt",
    "compare",
    "distill",
    "export",
    "features",
    "from_module",
    "get_source",
    "load",
    "load_task",
    "predict_each",
    "predict_file",
    "probe",
    "replay",
    "suggest_learning_rate",
    "task_from_arrays",
    "task_from_dataset",
    "task_from_texts",
]


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; `bequest --help` must not wait for it.
    if name in _LAZY:
        from importlib import import_module

        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'bequest' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
