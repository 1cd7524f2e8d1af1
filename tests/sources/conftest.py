"""Tiny random models as `save_pretrained` writes them."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a model, the tiny tokenizer and other JSON files into a folder."""

    def write(model: nn.Module, name: str = "model", *, tokenizer: bool = True, **files: Any) -> Path:
        folder = tmp_path / name
        model.save_pretrained(folder)
        if tokenizer:
            (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
        for file, content in files.items():
            path = folder / (file.replace("__", "/") + ".json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        return folder

    torch.manual_seed(0)
    return write
