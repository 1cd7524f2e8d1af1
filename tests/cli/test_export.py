"""`bequest export`, and `--adapter`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
from transformers import AutoModel

Bequest = Callable[..., tuple[int, str, str]]


def test_export_and_take_up_again(table: Path, bert: Path, bequest: Bequest, tmp_path: Path) -> None:
    source, sizes = ("--source", f"hf:{bert}"), ("--train-size", 40, "--test-size", 30, "--quiet")
    run, folder = tmp_path / "run", tmp_path / "adapter"
    status, _, _ = bequest("adapt", table, *source, *sizes, "--method", "lora", "--epochs", 1, "--out", run)
    assert status == 0
    status, out, error = bequest("export", run, folder, "--format", "peft")
    assert (status, error) == (0, "")
    assert f"Exported  {folder}   (peft; lora, seed 0)" in out
    assert "Checked   on 32 real samples: outputs differ from PyTorch's by at most" in out
    assert "The original network has no place for this head, so it lies in head.safetensors" in out
    readme = (folder / "README.md").read_text()
    assert f"network = transformers.AutoModel.from_pretrained('{bert}')" in readme
    model = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(bert), folder)
    assert model.peft_config["default"].base_model_name_or_path == str(bert)

    words = ("adapt", table, *source, "--adapter", folder, *sizes, "--out", tmp_path / "again")
    status, out, error = bequest(*words)
    assert (status, error) == (0, "")
    status, out, error = bequest("replay", tmp_path / "again", "--out", tmp_path / "replayed")
    assert status == 0 and "The replay gave the same scores." in out
    status, out, error = bequest("predict", tmp_path / "again", table)
    assert status == 0

    status, _, error = bequest("export", tmp_path / "again", tmp_path / "none", "--format", "peft")
    assert status == 1 and "None of its methods has no low-rank layers" in error
    words = ("adapt", table, *source, "--adapter", folder, "--cut-at", "layer.1", *sizes)
    status, _, _ = bequest(*words, "--method", "lora", "--epochs", 1, "--out", tmp_path / "cut")
    status, out, error = bequest("export", tmp_path / "cut", tmp_path / "second", "--format", "peft")
    assert (status, error) == (0, "")
    assert "The updates add to the network with the adapter adapter in it: merge that one first." in out
    assert "The embedding is the output of the layer `encoder.layer.1`" in (tmp_path / "second/README.md").read_text()
    merged = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(bert), folder).merge_and_unload()
    assert peft.PeftModel.from_pretrained(merged, tmp_path / "second").peft_config["default"].r == 8

    status, _, error = bequest("adapt", table, *source, "--adapter", bert, *sizes)
    assert status == 1 and f"There is no adapter in {bert}; expected adapter_config.json" in error


def test_the_peft_method_takes_a_file(table: Path, bert: Path, bequest: Bequest, tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text('{"peft_type": "LOHA", "r": 2}')
    words = ("adapt", table, "--source", f"hf:{bert}", "--train-size", 40, "--test-size", 30, "--quiet", "--epochs", 1)
    status, out, error = bequest(*words, "--method", "peft", "--peft-config", config, "--out", tmp_path / "run")
    assert status == 0 and "peft" in out
    assert "loha" in (tmp_path / "run" / "leaderboard.json").read_text().lower()
    status, _, error = bequest(*words, "--method", "peft", "--peft-type", "lo_ha")
    assert status == 1 and "peft_type is 'LO_HA', which peft" in error and "'LOHA'" in error
