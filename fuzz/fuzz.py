"""A coverage-guided fuzzer for whatever reads a user's files (`make fuzz`).

    python fuzz/fuzz.py READER [libFuzzer's options]
    python fuzz/fuzz.py images -max_total_time=600 -rss_limit_mb=2048 -timeout=10

It changes a few small files, and keeps the changes that reach new lines, until a reader raises what is no error of
ours, hangs, or takes more memory than the limit. What it found lies in a file `crash-…`, which
`python fuzz/fuzz.py READER crash-…` reads again. Linux and macOS; `pip install -e '.[fuzz]'`.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atheris
import numpy as np

from bequest.core.errors import BequestError

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


def instrumented() -> Any:
    """While this is open, what is imported is watched; each reader imports what it needs, and no more."""
    return atheris.instrument_imports(include=["bequest", "PIL", "csv", "safetensors", "tarfile"])


def written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def table(suffix: str, seeds: Callable[[], Iterable[bytes]], **options: Any) -> Reader:
    with instrumented():
        from bequest.data import load
    return Reader(lambda data: load(written(f"table{suffix}", data), **options), seeds)


def texts() -> Iterable[bytes]:
    rows = [(f"a text {i} of {i % 3}", "good" if i % 2 else "bad") for i in range(12)]
    yield "\n".join(["text,label", *(f'"{text}",{label}' for text, label in rows)]).encode()
    yield "\n".join(["id;text;split", *(f"{label};{text};train" for text, label in rows)]).encode("utf-16")


def objects() -> Iterable[bytes]:
    rows = [{"text": f"a text {i}", "label": ["x", "y"][: i % 3], "n": i / 7} for i in range(8)]
    yield "\n".join(map(json.dumps, rows)).encode()
    yield json.dumps(rows).encode()
    yield b'{"prompt": "a", "completion": "b"}\n{"prompt": "\\ud83d\\ude00", "completion": null}\n'


def images() -> Reader:
    with instrumented():
        from PIL import Image

        from bequest.data.images import sound_image_files

    def read(data: bytes) -> None:
        files, kept = sound_image_files([written("photo.png", data)])
        for i in range(len(kept)):
            files[i].convert("RGB")

    def seeds() -> Iterable[bytes]:
        pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
        for kind in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, kind)
            yield stream.getvalue()

    return Reader(read, seeds)


def records() -> Reader:
    with instrumented():
        from bequest.core.results import Leaderboard, TrialRecord, read_json

    def read(data: bytes) -> None:
        content = read_json(written("record.json", data))
        for kind in (Leaderboard, TrialRecord):
            try:
                kind.from_json(content)
            except BequestError:
                continue

    def seeds() -> Iterable[bytes]:
        yield json.dumps({"method": "full", "seed": 0, "settings": {"rank": 4}, "epochs": [], "test": 0.5}).encode()
        board = {"rows": [], "task": {}, "source": {}, "protocol": {}, "environment": {}, "passes": {}, "trials": []}
        yield json.dumps(board).encode()

    return Reader(read, seeds)


def runs() -> Reader:
    with instrumented():
        from bequest.comparison.folder import RunFolder, digest

    def read(data: bytes) -> None:
        RunFolder(written("run/run.json", data).parent).settings  # noqa: B018

    def seeds() -> Iterable[bytes]:
        content = {"identity": {"task": "x"}, "settings": {"seeds": [0]}}
        yield json.dumps({**content, "digest": digest(content)}).encode()

    return Reader(read, seeds)


def shards() -> Reader:
    with instrumented():
        from bequest.engine.shard import DamagedShard, read_shard, write_shard

    def read(data: bytes) -> None:
        try:
            read_shard(written("x-00000000.shard2", data))[0].open()
        except DamagedShard:
            return

    def seeds() -> Iterable[bytes]:
        made, _, _ = write_shard(FOLDER / "shards", np.zeros((2, 16), np.uint8), [np.ones((1, 3), np.float32)] * 2, 0.5)
        yield made.path.read_bytes()

    return Reader(read, seeds)


def read_shards(name: str, data: bytes) -> None:
    """All samples, of both kinds, of data in shards."""
    from bequest.core.observe import Silent
    from bequest.data.shards import Columns, find_shards, read_items

    path = written(name, data)
    for modality in ("image", "text"):
        try:
            for shard in find_shards(path, modality, 4, Silent()):
                for item in read_items(shard, modality, Columns()):
                    item.read()
        except BequestError as error:
            assert str(error), "an error of ours says something"


def tars() -> Reader:
    with instrumented():
        import tarfile

        importlib.import_module("bequest.data.shards")

    def seeds() -> Iterable[bytes]:
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            for mode in ("w", "w:gz"):
                stream = io.BytesIO()
                with tarfile.open(fileobj=stream, mode=mode, format=form, bufsize=512) as archive:
                    for name, content in {"a/1.png": b"one", "a/1.cls": b"7", "é" * 60 + ".txt": b"text"}.items():
                        member = tarfile.TarInfo(name)
                        member.size, member.pax_headers = len(content), {"comment": "x", "mtime": "1.5"}
                        archive.addfile(member, io.BytesIO(content))
                yield stream.getvalue().rstrip(b"\0") + bytes(512) if mode == "w" else stream.getvalue()

    return Reader(lambda data: read_shards("x.tar", data), seeds)


def parquet_tables() -> Reader:
    """As data in shards, and as a table."""
    with instrumented():
        from bequest.data import load

        importlib.import_module("bequest.data.shards")
    import pyarrow
    from pyarrow import parquet

    def read(data: bytes) -> None:
        read_shards("x.parquet", data)
        load(written("x.parquet", data))

    def seeds() -> Iterable[bytes]:
        texts, labels = [f"a text {i % 3}" for i in range(8)], ["good", "bad"] * 4
        columns: dict[str, Any] = {"text": texts, "label": labels, "tags": [["x", "y"][: i % 3] for i in range(8)]}
        for more in (
            {},
            {"image": [{"bytes": b"x", "path": "p"}] * 8, "when": pyarrow.array([1] * 8, "timestamp[us]")},
        ):
            stream = io.BytesIO()
            parquet.write_table(pyarrow.table({**columns, **more}), stream, row_group_size=5, write_statistics=False)
            yield stream.getvalue()

    return Reader(read, seeds)


def features() -> Reader:
    """A folder of features, of which the manifest is changed where the input is JSON, else the file."""
    with instrumented():
        from bequest.data import feature_files
    importlib.import_module("torch")  # which maps files
    manifest = {"num_samples": 3, "layers": {"a": 2}, "keys": {"a": {}}, "shards": [{"file": "x.parquet"}]}
    stream = io.BytesIO()
    with feature_files.FeatureWriter(stream, manifest["layers"]) as writer:
        writer.write([(f"key {i}", "ab"[i % 2], bytes([i] * 16)) for i in range(3)], np.ones((3, 2), np.float32))
        writer.finish({"seconds": 1.0})
    sound = stream.getvalue()

    def read(data: bytes) -> None:
        is_file = data.startswith(b"PAR1")
        written("features/features.json", json.dumps(manifest).encode() if is_file else data)
        path = written("features/x.parquet", data if is_file else sound)
        rows, labels = feature_files.read_features(path.parent)
        assert len(rows) == len(labels) == sum(1 for _ in zip(rows, labels, strict=False))
        feature_files.read_whole(path, "x.parquet")

    return Reader(read, lambda: [sound, json.dumps(manifest).encode()])


def adapters(changed: str) -> Reader:
    """An adapter of one layer, of whose two files one is changed."""
    with instrumented():
        from bequest.sources import adapter
    import torch
    from safetensors.torch import save
    from torch import nn

    from bequest.nn.network import Network

    prefix = "base_model.model.q.lora_"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"], "rank_pattern": {"q": 2}}
    config |= {"use_rslora": True, "layers_to_transform": [0], "modules_to_save": ["head"]}
    sound = {
        adapter.CONFIG_FILE: json.dumps(config).encode(),
        adapter.TENSORS_FILE: save({f"{prefix}A.weight": torch.ones(2, 4), f"{prefix}B.weight": torch.ones(4, 2)}),
    }

    def read(data: bytes) -> None:
        for name, content in {**sound, changed: data}.items():
            written(f"adapter/{name}", content)
        body = nn.Sequential()
        body.add_module("q", nn.Linear(4, 4))
        adapter.load(FOLDER / "adapter", Network(body, nn.Identity()))

    return Reader(read, lambda: [sound[changed]])


def gguf() -> Reader:
    """A quantised language model's header, which is walked before a library reads the file."""
    with instrumented():
        from bequest.sources.gguf_header import check_gguf

    def text(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    def seeds() -> Iterable[bytes]:
        entries = [
            text(b"general.name") + struct.pack("<I", 8) + text(b"a model"),
            text(b"general.size") + struct.pack("<IQ", 10, 7),
            text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b"),
            text(b"scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.0),
            text(b"nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ2B", 0, 2, 1, 2),
        ]
        tensor = text(b"token_embd.weight") + struct.pack("<I2QIQ", 2, 4, 2, 0, 0)
        for version in (2, 3):
            yield struct.pack("<4sIQQ", b"GGUF", version, 1, len(entries)) + b"".join(entries) + tensor + bytes(64)

    return Reader(lambda data: check_gguf(written("x.gguf", data)), seeds)


def saved_datasets() -> Reader:
    """A folder of `save_to_disk`, of whose two files of JSON one is changed; or the card of a folder of files."""
    import datasets

    with instrumented():
        from bequest.data import load
    sound = FOLDER / "sound"
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).save_to_disk(str(sound))
    files = {name: (sound / name).read_bytes() for name in ("state.json", "dataset_info.json")}
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.csv\n---\n"

    def read(data: bytes) -> None:
        if data.startswith(b"---"):
            written("files/data/a.csv", b"text,label\na,x\nb,y\n")
            load(f"hf:{written('files/README.md', data).parent}")
            return
        changed = "state.json" if b"_data_files" in data else "dataset_info.json"
        for name, content in {**files, changed: data}.items():
            (sound / name).write_bytes(content)
        load(sound)

    return Reader(read, lambda: [*files.values(), card])


READERS: dict[str, Callable[[], Reader]] = {
    "csv": lambda: table(".csv", texts),
    "tsv": lambda: table(".tsv", texts, task="regression"),
    "json": lambda: table(".json", objects),
    "jsonl": lambda: table(".jsonl", objects),
    "corpus": lambda: table(".jsonl", objects, task="causal-lm"),
    "images": images,
    "records": records,
    "runs": runs,
    "shards": shards,
    "tar": tars,
    "parquet": parquet_tables,
    "features": features,
    "safetensors": lambda: adapters("adapter_model.safetensors"),
    "gguf": gguf,
    "saved_datasets": saved_datasets,
    "adapter_config": lambda: adapters("adapter_config.json"),
}


def main() -> None:
    """Fuzz the reader that the first word names; all other words are libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"usage: python fuzz/fuzz.py {{{','.join(READERS)}}} [libFuzzer's options]")
    reader, words = READERS[sys.argv[1]](), sys.argv[2:]
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
