"""The network as a graph of operations, which runs without Bequest: `onnx` and `torch-export`."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from bequest.core.errors import RunError, first_line
from bequest.engine.adapted import AdaptedModel
from bequest.engine.formats.format import (
    Format,
    Outputs,
    about,
    input_names,
    output_name,
    refuse_language,
    save_beside,
)
from bequest.sources.preprocess import TextPreprocess

METADATA_FILE = "bequest.json"
"""In a .pt2 file: what ONNX files hold as `metadata_props`."""

_ONNX_LIMIT = 2**31 - 1
"""Bytes: what the file's encoding can hold."""


def program(model: AdaptedModel) -> ExportedProgram:
    """The network as a graph, for batches of any size and texts of any length up to the model's limit.

    Raises:
        RunError: PyTorch cannot make a graph of it.
    """
    inputs = model.source.example()
    assert inputs is not None, "it comes with real samples"
    try:
        with _quiet():
            return torch.export.export(model.network, inputs, dynamic_shapes=(_dynamic(model, inputs),), strict=False)
    except Exception as error:  # torch.export raises whatever the network's own code does
        reason = first_line(error)
        raise RunError(
            f"torch.export can make no graph of {model.source.name!r} ({reason[:200]}); expected a network whose "
            "steps do not depend on its inputs' values. Use --format safetensors, which holds the weights alone."
        ) from error


def _dynamic(model: AdaptedModel, inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    batch = {0: Dim("batch", min=1)}
    if not isinstance(model.source.preprocess, TextPreprocess):
        return tuple(batch for _ in inputs)
    return tuple({**batch, 1: Dim("tokens", min=1, max=model.source.preprocess.max_tokens)} for _ in inputs)


def _write_torch(model: AdaptedModel, folder: Path, name: str) -> list[str]:
    refuse_language(model, "a program")
    torch.export.save(program(model), folder / name, extra_files={METADATA_FILE: json.dumps(about(model))})
    return save_beside(model, folder)


def _read_torch(_: AdaptedModel, folder: Path, name: str) -> Outputs:
    made = torch.export.load(folder / name).module()
    return lambda batch: made(*batch)


def _write_onnx(model: AdaptedModel, folder: Path, name: str) -> list[str]:
    import onnx

    refuse_language(model, "ONNX")
    size = sum(t.numel() * t.element_size() for t in model.network.state_dict().values())
    if size > _ONNX_LIMIT:
        raise RunError(
            f"The network takes {size / 2**30:.1f} GB, and an ONNX file holds 2 GB; expected a smaller one. Use "
            "--format torch-export or safetensors."
        )
    found, names = program(model), {"input_names": input_names(model), "output_names": [output_name(model)]}
    try:
        with _quiet():
            made: Any = torch.onnx.export(found, dynamo=True, verbose=False, **names)
    except Exception as error:  # the exporter's own errors name no common kind
        raise RunError(
            f"PyTorch cannot write {model.source.name!r} as ONNX ({first_line(error)}); "
            "expected operations that ONNX has. Use --format torch-export."
        ) from error
    graph = made.model_proto
    _name_sizes(graph.graph)
    _forget_steps(graph.graph)
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about(model).items()}
    onnx.helper.set_model_props(graph, text)
    onnx.checker.check_model(graph)
    onnx.save(graph, folder / name)
    return save_beside(model, folder)


def _name_sizes(graph: Any) -> None:
    """Call the sizes that may vary `batch` and `tokens`, in place."""
    names: dict[str, str] = {}
    for given in graph.input:
        names |= {d.dim_param: n for n, d in zip(("batch", "tokens"), given.type.tensor_type.shape.dim, strict=False)}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = names.get(size.dim_param, size.dim_param)


def _forget_steps(graph: Any) -> None:
    """Take out where in whose code each step came from: paths of this machine, and many bytes; in place."""
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


def _read_onnx(_: AdaptedModel, folder: Path, name: str) -> Outputs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def outputs(batch: tuple[Tensor, ...]) -> Tensor:
        [found] = session.run(None, {name: part.numpy() for name, part in zip(names, batch, strict=True)})
        return torch.from_numpy(found)

    return outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their steps and of their own libraries."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


TORCH_EXPORT = Format("torch-export", ".pt2", "torch.export.load", ("torch",), "", _write_torch, _read_torch)
ONNX = Format("onnx", ".onnx", "onnxruntime", ("onnx", "onnxruntime", "onnxscript"), "onnx", _write_onnx, _read_onnx)
