"""Nothing that a user is given is unpickled, evaluated or imported: by the source's text, and by trying it."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faulting import fault

import bequest
from bequest import sources
from bequest.core.digests import hasher
from bequest.core.errors import BequestError, DataError, RunError, SourceError
from bequest.data import load
from bequest.engine.checkpoint import Checkpoint

PACKAGE = Path(bequest.__file__).parent
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "joblib",
    "yaml",
    "jsonpickle",
}
ALLOWED_NAMES = {"UnpicklingError", "safe_load"}
"""Of these modules: the one is raised, the other makes plain data alone."""
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def offences(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
            yield from (f"{node.module}.{a.name}" for a in node.names if a.name not in ALLOWED_NAMES)
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in FORBIDDEN_CALLS or called.endswith(
                (".read_pickle", ".Unpickler", "torch.jit.load", "torch.package")
            ):
                yield called
            if called == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load without weights_only=True"
            if given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code", "False") != "False":
                yield f"{called} with {given}"


def test_no_code_of_ours_unpickles() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    found = {str(f.relative_to(PACKAGE)): list(offences(ast.parse(f.read_text(encoding="utf-8")))) for f in files}
    assert {name: told for name, told in found.items() if told} == {}


def test_the_search_finds_what_it_looks_for() -> None:
    lines = ["import pickle", "from joblib import load", "torch.load(f)", "np.load(f, allow_pickle=True)", "eval('1')"]
    lines += [
        "torch.load(f, weights_only=False)",
        "pandas.read_pickle(f)",
        "M.from_pretrained(n, trust_remote_code=True)",
    ]
    assert all(list(offences(ast.parse(line))) for line in lines)
    fine = "from pickle import UnpicklingError\ntorch.load(f, weights_only=True)\nast.literal_eval(x)\nx.eval()"
    assert list(offences(ast.parse(fine))) == []


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What exists once a payload was run."""
    place = tmp_path / "payload was run"
    pickle.loads(pickle.dumps(Payload(place)))
    assert place.is_dir(), "the payload works"
    place.rmdir()
    yield place
    assert not place.exists()


def payload(mark: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.zeros(2), "more": Payload(mark)}, path)
    return path


def test_a_checkpoint_as_a_source(mark: Path, tmp_path: Path) -> None:
    file = payload(mark, tmp_path / "evil.pt")
    for name in (str(file), f"hf:{file}", f"timm:{file}", f"torchvision:{file}"):
        with pytest.raises(SourceError):
            sources.get(name)


def test_a_folder_of_a_model_with_pickled_weights_and_code(mark: Path, tmp_path: Path) -> None:
    import tiny

    folder = payload(mark, tmp_path / "model" / "pytorch_model.bin").parent
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"model_type": "bert", "vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 0, **sizes}
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError):
        sources.get(f"hf:{folder}").network()
    (folder / "code.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass C: pass\n")
    own = {"model_type": "evil", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.C"}}
    (folder / "config.json").write_text(json.dumps(own))
    with pytest.raises(SourceError):
        sources.get(f"hf:{folder}")


def test_a_runs_checkpoint(mark: Path, tmp_path: Path) -> None:
    class Loop:
        def state(self) -> dict[str, Any]:
            return {}

        def load(self, state: dict[str, Any]) -> None:
            raise AssertionError("it was read")

    file = payload(mark, tmp_path / "stage1.ckpt")
    content = file.read_bytes()
    file.write_bytes(hasher(content).digest() + content)
    with pytest.raises(RunError, match=r"is damaged \(Weights only load failed"):
        Checkpoint(file, {}, 0.0).restore(Loop())


@fault(
    "a source, checkpoint, run, adapter or array is a pickle that runs code",
    happens="refused: nothing that a user gives is unpickled, and no code of a model's folder is run",
    outcome="an error that names the file; the code is not run",
)
def test_weights_of_a_run_and_of_an_adapter(mark: Path, tmp_path: Path) -> None:
    model = payload(mark, tmp_path / "model" / "model.safetensors").parent
    (model / "model.json").write_text(
        json.dumps({"source": "x", "network": {"kind": "timm"}, "head": {"kind": "none"}})
    )
    with pytest.raises(RunError, match=r"model is damaged"):
        bequest.load(model)
    folder = payload(mark, tmp_path / "adapter" / "adapter_model.bin").parent
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(SourceError, match="a pickle, which can run any code"):
        sources.adapter.read(folder)
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    with pytest.raises(SourceError, match="no safetensors file"):
        sources.adapter.read(folder)


def test_arrays_of_objects_as_data(mark: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.array([Payload(mark)], dtype=object), allow_pickle=True)
    for path in (tmp_path / "data.npy", tmp_path):
        with pytest.raises(DataError):
            load(path)
    (tmp_path / "texts.csv").write_bytes((tmp_path / "data.npy").read_bytes())
    with pytest.raises(BequestError):
        load(tmp_path / "texts.csv")
