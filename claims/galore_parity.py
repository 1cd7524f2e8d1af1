"""GaLore against full fine-tuning with AdamW and LoRA: accuracy, and the bytes of the optimizers' state.

    python claims/galore_parity.py                     200 labels, three seeds; about an hour on one quiet core
    python claims/galore_parity.py --labels 60 --tokens 64 --seeds 1 --rows full,galore-8       a look

The paper's claim (Zhao et al. 2024, RoBERTa-base on GLUE): GaLore at rank 4 comes within half a point of full
fine-tuning, with a third of the memory. Here: BBC News from MiniLM-L6 at 128 tokens, 400 test texts, each method with
its defaults but the rank. Bytes are counted in the optimizer at the end. The claim holds where the interval of the
paired difference from full fine-tuning lies above −1.5 points, and the state is smaller than AdamW's. Numbers and
verdicts go to claims/results/galore_parity.json; rows of other settings there are replaced.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import bequest
from bequest.cli.demo import texts

RESULT = Path(__file__).parent / "results" / "galore_parity.json"
MARGIN = 0.015
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "galore-4": ("galore", {"rank": 4}),
    "galore-8": ("galore", {"rank": 8}),
    "galore-32": ("galore", {"rank": 32}),
    "galore-128": ("galore", {"rank": 128}),
    "galore-8-8bit": ("galore", {"rank": 8, "optimizer_states": "8bit"}),
    "lora-8": ("lora", {"rank": 8}),
}


def measure(row: str, setup: dict[str, Any], cache: str) -> dict[str, Any]:
    method, settings = ROWS[row]
    with tempfile.TemporaryDirectory() as out:
        run = bequest.compare(
            texts().task,
            "minilm_l6",
            [method],
            settings={method: settings},
            seeds=setup["seeds"],
            train_size=setup["labels"],
            max_tokens=setup["tokens"],
            test_size=400,
            out=Path(out) / "run",
            cache=cache,
            progress=False,
        )
    [found] = run.board.rows
    trials = run.board.trials
    return {
        "test": [t.test for t in trials],
        "optimizer_bytes": found.optimizer_bytes,
        "stored_bytes": found.stored_bytes,
        "seconds": [round(t.train_s, 1) for t in trials],
    }


def verdict(row: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    """The difference from full fine-tuning, paired by seed, with a 95 % interval where there are two or more."""
    from scipy import stats

    gaps = np.array(row["test"]) - np.array(full["test"])
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else None
    entry: dict[str, Any] = {"gap": round(float(gaps.mean()), 4), "half_interval": half and round(float(half), 4)}
    entry["share_of_bytes"] = round(row["optimizer_bytes"] / full["optimizer_bytes"], 4)
    if half is None:
        entry["holds"] = "one seed tells nothing"
    elif gaps.mean() - half > -MARGIN:
        entry["holds"] = "yes" if entry["share_of_bytes"] < 1 else "no: the state is no smaller"
    else:
        entry["holds"] = "no" if gaps.mean() + half < -MARGIN else "open: the interval holds the margin"
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", help=f"some of {', '.join(ROWS)} (default: all)")
    options = parser.parse_args()
    setup = {"labels": options.labels, "tokens": options.tokens, "seeds": options.seeds}
    earlier = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    rows: dict[str, Any] = earlier["rows"] if earlier.get("setup") == setup else {}
    with tempfile.TemporaryDirectory() as cache:
        for name in options.rows.split(",") if options.rows else ROWS:
            rows[name] = measure(name, setup, cache)
            print(name, rows[name], flush=True)
            full = rows.get("full")
            verdicts = {n: verdict(r, full) for n, r in rows.items() if n != "full"} if full else {}
            RESULT.parent.mkdir(exist_ok=True)
            content = {"setup": setup, "rows": rows, "verdicts": verdicts}
            RESULT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    for name, found in verdicts.items():
        print(f"{name}: {found}")


if __name__ == "__main__":
    main()
