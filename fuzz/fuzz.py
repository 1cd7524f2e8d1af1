"""A coverage-guided fuzzer for whatever reads a user's files (`make fuzz`).

    python fuzz/fuzz.py READER [libFuzzer's options]
    python fuzz/fuzz.py images -max_total_time=600 -rss_limit_mb=2048 -timeout=10

It changes a few small files, and keeps the changes that reach new lines, until a reader raises what is no error of
ours, hangs, or takes more memory than the limit. What it found lies in a file `crash-…`, which
`python fuzz/fuzz.py READER crash-…` reads again. Linux and macOS; `pip install -e '.[fuzz]'`.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["bequest", "PIL", "csv", "safetensors"]):
    from PIL import Image

    from bequest.comparison.folder import RunFolder
    from bequest.core.errors import BequestError
    from bequest.core.parse import parse_json
    from bequest.core.results import Leaderboard, TrialRecord
    from bequest.data import load
    from bequest.data.images import sound_image_files
    from bequest.engine.shard import DamagedShard, read_shard, write_shard
    from bequest.sources import adapter
    from bequest.sources.preprocess import ImagePreprocess

import numpy as np

FOLDER = Path(tempfile.mkdtemp(prefix="bequest-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    Attributes:
        read: What is tried with a file's bytes; returns, or raises an error of ours.
        seeds: Files to begin with.
    """

    read: Callable[[bytes], Any]
    seeds: Callable[[], Iterable[bytes]]


def written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def table(suffix: str, **options: Any) -> Callable[[bytes], Any]:
    return lambda data: load(written(f"table{suffix}", data), **options)


def texts() -> Iterable[bytes]:
    rows = [(f"a text {i} of {i % 3}", "good" if i % 2 else "bad") for i in range(12)]
    yield "\n".join(["text,label", *(f'"{text}",{label}' for text, label in rows)]).encode()
    yield "\n".join(["id;text;split", *(f"{label};{text};train" for text, label in rows)]).encode("utf-16")


def objects() -> Iterable[bytes]:
    rows = [{"text": f"a text {i}", "label": ["x", "y"][: i % 3], "n": i / 7} for i in range(8)]
    yield "\n".join(map(json.dumps, rows)).encode()
    yield json.dumps(rows).encode()
    yield b'{"prompt": "a", "completion": "b"}\n{"prompt": "\\ud83d\\ude00", "completion": null}\n'


def image(data: bytes) -> None:
    files, kept = sound_image_files([written("photo.png", data)])
    for i in range(len(kept)):
        ImagePreprocess(16, (0.5,) * 3, (0.5,) * 3).encode(files[i])  # pyright: ignore[reportArgumentType]


def images() -> Iterable[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        yield stream.getvalue()


def record(data: bytes) -> None:
    run = RunFolder(written("run/run.json", data).parent)
    for read in (lambda: run.settings, lambda: Leaderboard.from_json(parsed(data)), lambda: trial(data)):
        try:
            read()
        except BequestError:
            continue


def trial(data: bytes) -> None:
    found = TrialRecord.from_json(parsed(data))
    RunFolder(FOLDER / "run").trial(found.method, found.seed)


def parsed(data: bytes) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise BequestError(str(error)) from None


def records() -> Iterable[bytes]:
    yield json.dumps({"method": "full", "seed": 0, "settings": {"rank": 4}, "epochs": [], "test": 0.5}).encode()
    board = {"rows": [], "task": {}, "source": {}, "protocol": {}, "environment": {}, "passes": {}, "trials": []}
    yield json.dumps(board).encode()
    yield b'{"identity": {}, "settings": {}, "digest": "x"}'


def shard(data: bytes) -> None:
    try:
        read_shard(written("x-00000000.shard2", data))[0].open()
    except DamagedShard:
        return


def shards() -> Iterable[bytes]:
    folder = FOLDER / "shards"
    folder.mkdir(exist_ok=True)
    made, _, _ = write_shard(folder, np.zeros((2, 16), np.uint8), [np.ones((1, 3), np.float32)] * 2, 0.5)
    yield made.path.read_bytes()


def tensors(data: bytes) -> None:
    written("adapter/adapter_config.json", b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}')
    written("adapter/adapter_model.safetensors", data)
    adapter.load(FOLDER / "adapter", network())


def configuration(data: bytes) -> None:
    written("adapter/adapter_config.json", data)
    written("adapter/adapter_model.safetensors", next(iter(adapters())))
    adapter.load(FOLDER / "adapter", network())


def network() -> Any:
    import torch
    from torch import nn

    from bequest.nn.network import Network

    body = nn.Sequential()
    body.add_module("q", nn.Linear(4, 4))
    with torch.no_grad():
        return Network(body, nn.Identity())


def adapters() -> Iterable[bytes]:
    import torch
    from safetensors.torch import save

    prefix = "base_model.model.q.lora_"
    yield save({f"{prefix}A.weight": torch.ones(2, 4), f"{prefix}B.weight": torch.ones(4, 2)})


def configurations() -> Iterable[bytes]:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"], "rank_pattern": {"q": 2}}
    yield json.dumps({**config, "use_rslora": True, "layers_to_transform": [0], "modules_to_save": ["head"]}).encode()


READERS = {
    "csv": Reader(table(".csv"), texts),
    "tsv": Reader(table(".tsv", task="regression"), texts),
    "json": Reader(table(".json"), objects),
    "jsonl": Reader(table(".jsonl"), objects),
    "corpus": Reader(table(".jsonl", task="causal-lm"), objects),
    "images": Reader(image, images),
    "records": Reader(record, records),
    "shards": Reader(shard, shards),
    "safetensors": Reader(tensors, adapters),
    "adapter_config": Reader(configuration, configurations),
}


def main() -> None:
    """Fuzz the reader that the first word names; all other words are libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"usage: python fuzz/fuzz.py {{{','.join(READERS)}}} [libFuzzer's options]")
    reader, words = READERS[sys.argv[1]], sys.argv[2:]
    warnings.simplefilter("ignore")
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    for i, seed in enumerate(reader.seeds()):
        (seeds / str(i)).write_bytes(seed)

    def attempt(data: bytes) -> None:
        try:
            reader.read(data)
        except BequestError as error:
            assert str(error), "an error of ours says something"

    atheris.Setup([sys.argv[0], *words, *([] if any(map(os.path.exists, words)) else [str(seeds)])], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
