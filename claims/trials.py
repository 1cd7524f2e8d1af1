"""What several claims measure on: BBC News from MiniLM-L6 at 32 tokens, Fashion-MNIST from EfficientNet-Lite0 at 32 px.

Both are small enough to train a hundred networks in minutes on one core.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from finetuning_family import fashion

import bequest
from bequest.cli.demo import texts

TESTED = 600


def add_options(parser: Any, seeds: int, result: Path) -> None:
    """The flags of a claim that is measured on both tasks."""
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR", help="where its IDX files lie; else texts alone")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--quick", action="store_true", help="the extremes alone, to see that it works")
    parser.add_argument("--result", type=Path, default=result, metavar="FILE")


def tasks(options: Any) -> dict[str, dict[str, Any]]:
    """Data and source of each task, as `bequest.compare` takes them."""
    found: dict[str, dict[str, Any]] = {
        "BBC News": {"data": texts().task, "source": "minilm_l6", "max_tokens": 32},
    }
    if options.fashion_mnist:
        data = fashion(options.fashion_mnist)
        found["Fashion-MNIST"] = {"data": data, "source": "efficientnet_lite0", "image_size": 32}
    return found


def measure(task: dict[str, Any], method: str, labels: int, seeds: int, cache: Path, **settings: Any) -> dict[str, Any]:
    """Test accuracy and seconds of training of one method, a value a seed."""
    with tempfile.TemporaryDirectory() as out:
        run = bequest.compare(
            methods=[method],
            settings={method: settings},
            seeds=seeds,
            train_size=labels,
            test_size=TESTED,
            out=Path(out) / "run",
            cache=cache,
            progress=False,
            **task,
        )
    trials = run.board.trials
    return {"test": [t.test for t in trials], "seconds": [round(t.train_s or 0, 1) for t in trials]}
