"""Claim: GaLore is within points of full fine-tuning with a part of its optimizer's bytes (Zhao et al. 2024).

    python claims/galore_parity.py                     200 labels, three seeds; about an hour on one quiet core
    python claims/galore_parity.py --labels 60 --tokens 64 --seeds 1 --rows full,galore-8       a look

The paper's claim (RoBERTa-base on GLUE): GaLore at rank 4 comes within half a point of full fine-tuning, with a third
of the memory. Here: BBC News from MiniLM-L6 at 128 tokens, 400 test texts, each method with its defaults but the rank.
Bytes are counted in the optimizer at the end. The claim holds where the interval of the paired difference from full
fine-tuning lies above −1.5 points; the bytes stand beside it. Numbers and verdicts go to
claims/results/galore_parity.json; rows of other settings there are replaced.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from verdicts import Chart, Finding, gain, percent, write

import bequest
from bequest.cli.demo import texts

RESULT = Path(__file__).parent / "results" / "galore_parity.json"
MARGIN = 1.5
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


def findings(result: dict[str, Any]) -> list[Finding]:
    """Of each GaLore row its accuracy against full fine-tuning's, and its optimizer's bytes."""
    rows, told = result["rows"], list[Finding]()
    for name in [name for name in rows if name != "full"] if "full" in rows else []:
        share = rows[name]["optimizer_bytes"] / rows["full"]["optimizer_bytes"]
        words = f"{name} against full fine-tuning, with {share:.0%} of its optimizer's bytes"
        told.append(gain(words, rows[name]["test"], rows["full"]["test"], -MARGIN))
    return told


def chart(result: dict[str, Any]) -> Chart:
    return Chart("test accuracy, %", {n: {"accuracy": percent(row["test"])} for n, row in result["rows"].items()})


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
            write(RESULT, {"setup": setup, "rows": rows})
    result = {"setup": setup, "rows": rows}
    write(RESULT, result, findings(result))


if __name__ == "__main__":
    main()
