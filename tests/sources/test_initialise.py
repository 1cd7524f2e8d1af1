"""Sources that start from a larger one: how they are asked for, what they hold, how runs of them are repeated."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportOptionalIterable=false, reportPrivateUsage=false

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as T
from torch import nn

import bequest
from bequest import sources
from bequest.cli import main as command_line
from bequest.core.errors import SourceError
from bequest.nn.weight_selection import select_weights

CONFIG = {"vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 0}
LARGE = {**CONFIG, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
SMALL = {**CONFIG, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
TEXTS = ["ball goal", "soup bread salt"]
GUIDE = (Path(__file__).parents[2] / "docs" / "weight_selection.md").read_text(encoding="utf-8")


@pytest.fixture
def large(save: Any) -> str:
    return f"hf:{save(T.BertModel(T.BertConfig(**LARGE)), 'large')}"


@pytest.fixture
def small(save: Any) -> str:
    return f"hf:{save(T.BertModel(T.BertConfig(**SMALL)), 'small')}"


def same(one: nn.Module, other: nn.Module) -> bool:
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def expected(small: str, large: str, selection: Any = "uniform") -> nn.Module:
    body = sources.get(small).network().body
    select_weights(sources.get(large).body, body, selection)
    return body


def test_a_named_source_starts_from_a_larger_one(small: str, large: str):
    plain = sources.get(small)
    found = sources.get(small, init_from=large)
    assert same(found.body, expected(small, large))
    assert found.name == f"{small} from {large}"
    assert isinstance(found.network().head, nn.Identity)
    assert same(found.scratch(3), plain.scratch(3)), "the from-scratch twin stays random"
    first = sources.get(small, init_from=large, selection="first")
    assert same(first.body, expected(small, large, "first"))
    assert first.name == f"{small} from {large} (first)"
    prints = {s.fingerprint for s in (plain, found, first, sources.get(large))}
    assert len(prints) == 4
    assert sources.get(**found.request).fingerprint == found.fingerprint
    by_hand = sources.initialise(plain, sources.get(large))
    assert by_hand.fingerprint == found.fingerprint
    assert not by_hand.request, "a replay would not know of the larger one"
    cut = sources.get(small, init_from=large, cut_at="layer.0")
    assert same(cut.body.body.encoder.encoder.layer[0], found.body.encoder.encoder.layer[0])


def test_a_smaller_member_of_the_source_itself(small: str, large: str):
    found = sources.get(large, init_layers=2, init_width=8, max_tokens=9)
    assert same(found.body, expected(small, large))
    assert found.name == f"{large} of 2 layers, width 8 from {large}"
    assert (found.width, found.preprocess.max_tokens) == (8, 9)
    assert found.layers[0].name == sources.get(small).layers[0].name
    shallow = sources.get(large, init_layers=1)
    there, here = sources.get(large).body.encoder, shallow.body.encoder
    assert len(here.encoder.layer) == 1 and same(here.encoder.layer[0], there.encoder.layer[0])
    untrained = sources.get(large, init_layers=2, init_width=8, pretrained=False)
    assert untrained.fingerprint != found.fingerprint
    assert untrained.fingerprint == sources.get(**untrained.request).fingerprint


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("DistilBert", {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 4}),
        ("GPT2", {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 40}),
        (
            "Qwen2",
            {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
        ),
    ],
)
def test_members_of_other_families(save: Any, model: str, settings: dict[str, Any]):
    config = getattr(T, f"{model}Config")(vocab_size=64, pad_token_id=0, **settings)
    name = f"hf:{save(getattr(T, f'{model}Model')(config), model)}"
    found = sources.get(name, init_layers=2, init_width=8)
    assert found.width == 8
    assert found.body(*found.example()).shape[1] == 8
    member = T.AutoConfig.for_model(**found.description["config"])
    assert (member.num_hidden_layers, member.num_attention_heads) == (2, 2)


def test_a_run_of_it_is_saved_loaded_replayed_and_a_source_again(large: str, tmp_path: Path, cache: Path):
    settings: dict[str, Any] = {"train_size": 30, "test_size": 30, "progress": False, "precision": "float32"}
    data = tmp_path / "words.csv"
    task = tiny.text_task()
    rows = [f"{task.samples[i]},{task.classes[label]}" for i, label in enumerate(task.labels)]
    data.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    run = bequest.adapt(data, large, out=tmp_path / "run", init_layers=2, init_width=8, selection="random", **settings)
    board = json.loads((tmp_path / "run" / "leaderboard.json").read_text(encoding="utf-8"))
    assert board["source"]["name"] == f"{large} of 2 layers, width 8 from {large} (random)"
    loaded = bequest.load(tmp_path / "run")
    source = sources.get(large, init_layers=2, init_width=8, selection="random")
    assert same(loaded.network.body, source.body)
    assert board["source"]["fingerprint"] == source.fingerprint
    assert torch.equal(loaded.outputs(TEXTS), run.best.outputs(TEXTS))
    bequest.replay(tmp_path / "run", out=tmp_path / "again", progress=False)
    smaller = sources.get(str(tmp_path / "run"), init_layers=1)
    assert same(smaller.body.encoder.encoder.layer[0], loaded.network.body.encoder.encoder.layer[0])


def test_images_are_scaled_as_the_larger_source_expects():
    options: dict[str, Any] = {"image_size": 64, "pretrained": False}
    small, large = (sources.get(f"timm:{n}", **options) for n in ("tf_efficientnet_lite0", "tf_efficientnet_lite2"))
    large = replace(large, preprocess=replace(large.preprocess, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    found = sources.initialise(small, large)
    assert (found.preprocess.mean, found.preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.preprocess.size == 64
    assert torch.isfinite(found.body(*found.example())).all()


def test_modules_of_ones_own():
    def network(width: int, depth: int) -> nn.Module:
        layers = (nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth))
        return nn.Sequential(nn.Linear(5, width), *layers, nn.Linear(width, 3))

    # The head of the one stands where a layer of the other does, so that neither keeps it.
    large, small = (sources.from_module(network(*shape), name=str(shape)) for shape in ((9, 3), (4, 2)))
    found = sources.initialise(small, large, "first")
    assert torch.equal(found.body[0].weight, large.body[0].weight[:4])
    assert torch.equal(found.body[2][0].weight, large.body[2][0].weight[:4, :4])
    assert found.name == "(4, 2) from (9, 3) (first)"


def told(name: Any, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        sources.get(name, **options)
    return str(caught.value)


def test_what_cannot_be_is_told(small: str, large: str):
    backwards = told(large, init_from=small)
    assert backwards.startswith(f"'{large}' cannot start from '{small}'. PooledEncoder cannot start from weights of ")
    assert "Choose a larger network of the same family." in backwards
    assert "--selection is 'unifrom'. Did you mean 'uniform'?" in told(small, init_from=large, selection="unifrom")
    assert "--selection says which units of a larger network are kept, but none was" in told(small, selection="first")
    assert "Give one or the other" in told(large, init_from=large, init_layers=2)
    assert "--init-layers is 4, expected from 1 to 3" in told(large, init_layers=4)
    assert "--init-layers is 0, expected from 1 to 3" in told(large, init_layers=0)
    assert "--init-width is 6, expected a multiple of 4 up to 16" in told(large, init_width=6)
    assert "--init-width is 20, expected a multiple of 4 up to 16" in told(large, init_width=20)
    assert "--init-width is 'wide', expected a whole number" in told(large, init_width="wide")
    assert "Name the smaller network: --source SMALL --init-from timm:test_vit" in told("timm:test_vit", init_layers=2)
    stages = {"kind": "transformers", "config": {"model_type": "convnext"}}
    with pytest.raises(SourceError, match="has no one width and number of heads for all layers"):
        sources.member(replace(sources.get(large), description=stages), 2)

    vocabulary = Path(small.removeprefix("hf:")) / "tokenizer.json"
    vocabulary.write_text(tiny.tokenizer_json().replace('"oven"', '"stove"'), encoding="utf-8")
    assert "their tokenizers differ, so that a row of the embedding stands for another word" in told(
        small, init_from=large
    )


def test_modules_take_no_names_of_larger_ones():
    with pytest.raises(SourceError, match="init_from does not apply to 'Linear'"):
        sources.resolve(nn.Linear(3, 2), tiny.image_task(), init_from="minilm_l6")
    with pytest.raises(SourceError, match="init_layers is for a source's name"):
        sources.resolve(tiny.image_source(), tiny.image_task(), init_layers=1)


def test_the_guides_program_runs():
    [program] = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    exec(compile(program, "docs/weight_selection.md", "exec"), {})


def test_command_lines_reach_it(large: str, small: str, tmp_path: Path, cache: Path, capsys: Any):
    commands = re.findall(r"^\$ bequest (.*)$", GUIDE, re.M)
    assert len(commands) == 3
    for command in commands:
        options, unknown = command_line._parser().parse_known_args(shlex.split(command))
        assert not unknown and (options.init_from or options.init_width)

    data = tmp_path / "words.csv"
    task = tiny.text_task()
    rows = [f"{task.samples[i]},{task.classes[label]}" for i, label in enumerate(task.labels)]
    data.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    words = f"adapt {data} --source {small} --init-from {large} --selection first --train-size 30 --quiet"
    assert command_line.main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    assert same(bequest.load(tmp_path / "run").network.body, expected(small, large, "first"))
    assert command_line.main([*words.split(), "--init-layers", "1"]) == 1
    assert "Give one or the other" in capsys.readouterr().err
