"""What command lines work on: a table, and a tiny random BERT as `save_pretrained` writes it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from bequest.cli.main import main

Bequest = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def table(tmp_path_factory: Any, tiny_tasks: Any) -> Path:
    """Texts of three classes."""
    path = tmp_path_factory.mktemp("data") / "words.csv"
    task = tiny_tasks["text"]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(task.samples[i], task.classes[label]) for i, label in enumerate(task.labels)]
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture(scope="session")
def bert(tmp_path_factory: Any) -> Path:
    """Three layers of width 16."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    model: Any = BertModel(BertConfig(vocab_size=64, max_position_embeddings=40, **sizes))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    return folder


@pytest.fixture
def bequest(capsys: pytest.CaptureFixture[str], cache: Path) -> Bequest:
    """Runs a command line: exit status, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's own errors
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: Any) -> Path:
    """A tiny image classifier of two stages."""
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    model: Any = ResNetForImageClassification(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}', encoding="utf-8")
    return folder
