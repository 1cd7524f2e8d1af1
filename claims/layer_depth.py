"""Claim: late features suit tasks near to the source's, early and middle ones those far from it (Evci et al. 2022).

    python claims/layer_depth.py --fashion-mnist DIR --mnist DIR            a few minutes on one core
    python claims/layer_depth.py --quick

A linear probe on a layer at a third of the depth, at two thirds, and on the embedding, nothing trained
(arXiv:2201.03529). For texts MiniLM-L6, trained to place sentences by their meaning: the topics of BBC News are near,
telling whole passages from those whose words are shuffled is far. For pictures EfficientNet-Lite0 of ImageNet: clothes
by class are nearer, digits and the angle by which clothes are turned are far. 400 labels, 600 test samples. A task is
near or far by what the source was trained for, said before anything was measured. Numbers go to
claims/results/layer_depth.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pictures import FASHION, clothes, digits, task
from PIL import Image
from trials import add_options, measure
from verdicts import Chart, Finding, gain, percent, write

import bequest
from bequest.cli.demo import texts

RESULT = Path(__file__).parent / "results" / "layer_depth.json"
COUNT, LABELS, WORDS = 2000, 400, 20
LAYERS = {
    "text": {"early": "encoder.encoder.layer.1", "middle": "encoder.encoder.layer.3", "late": ""},
    "image": {"early": "blocks.2.1", "middle": "blocks.4.2", "late": ""},
}
NEAR = ("topics", "clothes")
FAR = ("shuffled words", "digits", "turned clothes")


def shuffled() -> Any:
    """Passages of some words, every second one with its words in random order."""
    rng, samples, labels = np.random.default_rng(0), [], []
    for text in texts().task.samples:
        words = text.split()[WORDS : 2 * WORDS]
        if len(words) == WORDS:
            mixed = len(labels) % 2 == 1
            samples.append(" ".join(rng.permutation(words) if mixed else words))
            labels.append("shuffled" if mixed else "whole")
    return bequest.task_from_arrays(samples, labels, name="shuffled words")


def tasks(options: Any) -> dict[str, dict[str, Any]]:
    """Those whose data are given."""
    text = {"source": "minilm_l6", "max_tokens": 64}
    image = {"source": "efficientnet_lite0", "image_size": 64}
    found = {"topics": {"data": texts().task, **text}, "shuffled words": {"data": shuffled(), **text}}
    rng = np.random.default_rng(0)
    if options.fashion_mnist:
        worn, kinds = clothes(options.fashion_mnist)
        some, eighths = rng.permutation(len(worn))[:COUNT], rng.integers(0, 8, COUNT)
        turned = [np.asarray(Image.fromarray(worn[i]).rotate(45 * int(e))) for i, e in zip(some, eighths, strict=True)]
        found["clothes"] = {"data": task("clothes", worn[some], [FASHION[k] for k in kinds[some]]), **image}
        angles = [f"{45 * e} degrees" for e in eighths]
        found["turned clothes"] = {"data": task("turned clothes", np.stack(turned), angles), **image}
    if options.mnist:
        written, numbers = digits(options.mnist)
        some = rng.permutation(len(written))[:COUNT]
        found["digits"] = {"data": task("digits", written[some], [str(n) for n in numbers[some]]), **image}
    return found


def findings(result: dict[str, Any]) -> list[Finding]:
    found = {name: {depth: row["test"] for depth, row in rows.items()} for name, rows in result["tasks"].items()}
    near = [(name, "late", other) for name in NEAR for other in ("middle", "early")]
    far = [(name, other, "late") for name in FAR for other in ("middle", "early")]
    return [
        gain(f"{name} ({'near' if name in NEAR else 'far'}): {a} above {b} features", found[name][a], found[name][b])
        for name, a, b in near + far
        if name in found
    ]


def chart(result: dict[str, Any]) -> Chart:
    rows = {
        f"{name} ({'near' if name in NEAR else 'far'})": {d: percent(row["test"]) for d, row in found.items()}
        for name, found in result["tasks"].items()
    }
    return Chart("test accuracy, %", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seeds=5, result=RESULT)
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="where 0.json to 9.json lie")
    options = parser.parse_args()
    result: dict[str, Any] = {"tasks": {}}
    with tempfile.TemporaryDirectory() as cache:
        for name, made in tasks(options).items():
            kind = "text" if made["source"] == "minilm_l6" else "image"
            for depth, layer in LAYERS[kind].items():
                found = measure(made, "linear_probe", LABELS, options.seeds, Path(cache), layer=layer)
                print(name, depth, found, flush=True)
                result["tasks"].setdefault(name, {})[depth] = found
    write(options.result, result, findings(result))


if __name__ == "__main__":
    main()
