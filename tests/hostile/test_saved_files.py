"""Run folders, models and adapters whose files somebody forged: an error that names the file, and nothing done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from faulting import fault
from hypothesis import given
from hypothesis import strategies as st

import bequest
from bequest import sources
from bequest.comparison.folder import RunFolder, digest
from bequest.core.errors import BequestError, MethodError, RunError, SourceError
from bequest.core.results import Leaderboard, read_json
from bequest.engine.shard import DamagedShard, read_shard
from bequest.nn.peft_tuners import configured
from bequest.sources import adapter

DEEP = "[" * 50_000 + "]" * 50_000
VALUES: list[Any] = [None, "x", "../../x", -1, 0, 10**12, 10**400, 1e308, True, [], {}, [[]], {"kind": "linear"}]
FORGED = st.sampled_from(VALUES)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in plain data, but no more than two items of a list."""
    yield at
    keys = value if isinstance(value, dict) else range(min(2, len(value))) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*at, key))


def forged(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = forged(copy[at[0]], at[1:], new)
    return copy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a linear probe, whose model lies in best/."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("given")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=40, pad_token_id=0, **sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    options: dict[str, Any] = {"train_size": 30, "test_size": 30, "progress": False, "cache": folder / "cache"}
    source = sources.get(f"hf:{folder}")
    return bequest.adapt(tiny.text_task(), source, "linear_probe", out=folder / "run", folds=2, **options).folder


@given(data=st.data())
def test_a_leaderboard_is_what_it_says_or_the_field_is_named(run: Path, data: st.DataObject) -> None:
    board = read_json(run / "leaderboard.json")
    place = data.draw(st.sampled_from(sorted(places(board), key=str)))
    try:
        Leaderboard.from_json(forged(board, place, data.draw(FORGED)))
    except RunError as error:
        assert len(str(error)) < 500
    else:
        return


def test_the_field_of_the_wrong_type_is_named(run: Path) -> None:
    board = read_json(run / "leaderboard.json")
    for place, value, told in [
        (("rows", 0, "validation", "mean"), "0.9", r"rows\[0\]\.validation\.mean is '0\.9', expected float"),
        (("trials", 0, "seed"), "../x", r"seed is '\.\./x', expected int"),
        (("trials", 0, "test"), float("inf"), "test is inf, expected float"),
        (("rows", 0, "metrics"), [], "'list' object has no attribute"),
        (("rows", 0, "method"), None, r"rows\[0\]\.method is None, expected str"),
    ]:
        with pytest.raises(RunError, match=told):
            Leaderboard.from_json(forged(board, place, value))


@fault(
    "a run's, model's or adapter's JSON or safetensors is forged: deep, huge, of wrong types, overlapping, with `../`",
    happens="refused before anything of that size is built; file or field is named",
    outcome="an error; nothing outside of the folder is read",
)
@given(data=st.data())
def test_a_model_is_loaded_or_its_folder_is_named(run: Path, data: st.DataObject) -> None:
    file = run / "best" / "model.json"
    about = json.loads(file.read_text())
    place = data.draw(st.sampled_from(sorted((p for p in places(about) if p[:1] != ("record",)), key=str)))
    try:
        file.write_text(json.dumps(forged(about, place, data.draw(FORGED))))
        bequest.load(run)
    except BequestError as error:
        assert str(run / "best") in str(error) or "network" in str(error) or "expected" in str(error)
    finally:
        file.write_text(json.dumps(about))


def test_a_model_larger_than_its_weights_is_not_built(run: Path) -> None:
    file = run / "best" / "model.json"
    about = json.loads(file.read_text())
    for place in (("network", "config", "vocab_size"), ("head", "num_outputs")):
        try:
            file.write_text(json.dumps(forged(about, place, 10**6)))
            with pytest.raises(RunError, match=r"model\.json describes a network of [\d,]+ numbers, but"):
                bequest.load(run)
        finally:
            file.write_text(json.dumps(about))


LAYERS = ("network", "config", "num_hidden_layers")
CHANGED: list[tuple[tuple[Any, ...], Any, str]] = [
    (("kind",), "x", "kind is 'x', expected classification"),
    (("classes",), ["a", "a", "b"], "expected different names"),
    (("classes",), "abc", "classes is 'abc', expected different names"),
    (("classes",), [1, 2, 3], "expected different names"),
    (("classes",), ["a", "b"], "classes are 2, expected one for each of the 3 outputs"),
    (("record",), [], r"record is '\[\]', expected an object"),
    (("preprocess", "max_tokens"), "x", "max_tokens is 'x', expected int"),
    (("preprocess", "max_tokens"), 2**70, "max_tokens is"),
    (("preprocess", "max_tokens"), 41, "max_tokens in preprocess does not fit the network"),
    (("preprocess", "pad_token"), "[NONE]", r"pad_token is '\[NONE\]', expected a token that the tokenizer knows"),
    (("preprocess", "depth"), 3, "unexpected keyword argument 'depth'"),
    (("network", "config", "layer_norm_eps"), "x", "does not fit its description"),
    (
        ("network", "config", "num_hidden_layers"),
        10**12,
        r"network\.config\.num_hidden_layers is 10+, expected 1,048,576",
    ),
    (("network", "config", "num_hidden_layers"), 10**6, r"more than 32,768 modules .* num_hidden_layers 1000000"),
]


@pytest.mark.parametrize(
    ("place", "value", "told"), CHANGED, ids=[f"{'.'.join(p)} {str(v)[:9]}" for p, v, _ in CHANGED]
)
def test_a_field_that_a_model_cannot_be_used_with_is_named_when_it_is_read(
    run: Path, tmp_path: Path, place: tuple[Any, ...], value: Any, told: str
) -> None:
    shutil.copytree(run / "best", tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    about = json.loads(file.read_text())
    if place[0] == "preprocess":
        about["preprocess"].setdefault(place[1], None)
    file.write_text(json.dumps(forged(about, place, value)))
    with pytest.raises(RunError, match=told) as caught:
        bequest.load(tmp_path / "model")
    assert "model.json" in str(caught.value) and len(str(caught.value)) < 700


def test_what_only_saves_memory_does_not_keep_a_model_from_predicting(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "best", tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(forged(about, ("network", "config", "chunk_size_feed_forward"), 5)))
    assert len(bequest.load(tmp_path / "model").predict(["ball", "soup bread salt"])) == 2


@fault(
    "one bit of a saved model's weights or tokenizer is flipped",
    happens="its digest in model.json does not fit: the file is named",
    outcome="an error, and no other predictions",
)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_flipped_bit_of_a_saved_model(run: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(run / "best", tmp_path / "model")
    file = tmp_path / "model" / name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=rf"{name} is damaged \(its bytes are others than model\.json tells\)"):
        bequest.load(tmp_path / "model")


IMAGE: dict[str, Any] = {"kind": "image", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", 10**6),
        ("size", 32.5),
        ("size", True),
        ("resize", 10**6),
        ("resize", -1),
        ("crop", 0),
        ("crop", "x"),
        ("interpolation", "fast"),
        ("interpolation", 3),
        ("mean", [0, 0]),
        ("mean", ["x", 0, 0]),
        ("mean", 0.5),
        ("std", [1, 0, 1]),
        ("std", [float("inf"), 1, 1]),
    ],
)
def test_a_preprocessing_that_cannot_be_carried_out(tmp_path: Path, field: str, value: Any) -> None:
    about = {"network": {"kind": "timm"}, "preprocess": {**IMAGE, field: value}}
    with pytest.raises(RunError, match=rf"model\.json: in preprocess {field} is .*expected"):
        sources.from_description("x", about, tmp_path)


def test_a_crop_that_asks_for_a_huge_image(tmp_path: Path) -> None:
    about = {"network": {"kind": "timm"}, "preprocess": {**IMAGE, "crop": 1e-9}}
    with pytest.raises(RunError, match=r"resize is 'None', expected from 1 to 4096 pixels, that of size / crop too"):
        sources.from_description("x", about, tmp_path)


def test_a_folder_of_transformers_that_describes_more_than_it_holds(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    shutil.copy(run / "best" / "tokenizer.json", folder)
    config = json.loads((run / "best" / "model.json").read_text())["network"]["config"]
    for number, told in ((10**12, r"config\.json\.num_hidden_layers is 10+, expected"), (10**6, "more than 32,768")):
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": number}))
        with pytest.raises(SourceError, match=told):
            sources.get(f"hf:{folder}")


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"kind": "timm", "architecture": "resnet18", "arguments": {"checkpoint_path": "x.pt"}}, "checkpoint_path"),
        ({"kind": "timm", "architecture": "hf-hub:someone/evil", "arguments": {}}, "hf-hub:someone/evil"),
        ({"kind": "torchvision", "architecture": "resnet18", "arguments": {"weights": "DEFAULT"}}, "weights"),
        ({"kind": "torchvision", "architecture": "os.system", "arguments": {}}, "os.system"),
    ],
)
def test_a_description_cannot_make_a_library_read_further_files(run: Path, network: dict[str, Any], told: str) -> None:
    image = {"kind": "image", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}
    file = run / "best" / "model.json"
    about = json.loads(file.read_text())
    try:
        file.write_text(json.dumps({**about, "network": network, "preprocess": image}))
        with pytest.raises(RunError, match="expected what bequest writes") as caught:
            bequest.load(run)
    finally:
        file.write_text(json.dumps(about))
    assert told in str(caught.value)


def test_names_in_a_run_cannot_lead_out_of_its_folder(run: Path) -> None:
    kept = RunFolder(run)
    for method in ("../evil", "a/../../b", "..", "", "/etc", "a\0b", "a\\b"):
        with pytest.raises(RunError, match="expected a name of letters, digits and signs that make no path"):
            kept.trial(method, 0)
    with pytest.raises(RunError, match="at the seed"):
        kept.trained("linear_probe", "../../0")  # pyright: ignore[reportArgumentType]
    assert kept.trial("full, distilled at 4", 1).parent.parent == run / "trials"


@pytest.mark.parametrize(
    "content", [DEEP, '{"a": 1, "a": 2}', "9" * 5000, "[]", "null", "", '{"digest": []}', "\udcff", "[1e999]"]
)
@pytest.mark.parametrize("name", ["run.json", "leaderboard.json", "best/model.json", "record.json"])
def test_json_that_is_none_of_ours(run: Path, tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / name
    if name == "record.json":
        file = tmp_path / "run" / "trials" / "linear_probe" / "seed0" / name
    file.write_bytes(content.encode(errors="surrogateescape"))
    kept = RunFolder(tmp_path / "run")
    read: dict[str, Callable[[], Any]] = {
        "run.json": lambda: kept.settings,
        "leaderboard.json": kept.board,
        "best/model.json": lambda: bequest.load(tmp_path / "run"),
        "record.json": lambda: kept.finished("linear_probe", 0, ""),
    }
    with pytest.raises(RunError) as caught:
        read[name]()
    assert str(file.parent) in str(caught.value) or str(file) in str(caught.value)


def test_a_forged_seal_does_not_help(run: Path, tmp_path: Path) -> None:
    """Whoever can write the file can seal it too: what it lacks is then named."""
    shutil.copytree(run, tmp_path / "run")
    for content in ({}, {"settings": []}, {"settings": {"replayable": True}, "identity": {}}):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**content, "digest": digest(content)}))
        with pytest.raises(RunError, match=r"run\.json"):
            bequest.replay(tmp_path / "run", out=tmp_path / "again", progress=False)


RECORDED = {
    **dict.fromkeys(("source", "data", "methods", "settings", "augment", "precision", "teacher", "source_data"), 5),
    **{name: ["x"] for name in ("seeds", "train_sizes", "temperatures")},
    **{"train_size": "x", "test_size": [], "folds": {}, "cut": 1, "distillation": [], "unlabelled": {}},
}


@pytest.mark.parametrize("name", [*RECORDED, "source.name", "source.max_tokens", "data.path", "data.more"])
def test_settings_of_another_kind_are_named(run: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    content = json.loads(file.read_text())
    del content["digest"]
    scalars = dict.fromkeys(("text_column", "image_column", "label_column", "split_column", "group_column"))
    data = {"path": "a.csv", "task": "auto", **scalars, "encoding": "utf-8", "skip_bad": False}
    sealed = {**content["settings"], "data": data, "replayable": True}
    field, _, inner = name.partition(".")
    wrong = {**sealed, field: {**sealed[field], inner: {}} if inner else RECORDED[field]}
    for settings, told in ((wrong, inner or field), ({k: v for k, v in sealed.items() if k != field}, field)):
        forged = {**content, "settings": settings}
        file.write_text(json.dumps({**forged, "digest": digest(forged)}))
        with pytest.raises(RunError, match=rf"run\.json is not as bequest wrote it: .*{told}"):
            bequest.replay(tmp_path / "run", out=tmp_path / "again", progress=False)


HEADERS: dict[str, bytes] = {
    "a length of 2⁶³": (2**63).to_bytes(8, "little") + b"{}",
    "a length of all there is": (10**9).to_bytes(8, "little") + b"{}",
    "no length": b"\1\2",
    "nested": len(DEEP).to_bytes(8, "little") + DEEP.encode(),
    **{
        name: len(text).to_bytes(8, "little") + text + bytes(64)
        for name, text in {
            "overlapping": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],'
            b'"data_offsets":[8,24]}}',
            "beyond the end": b'{"a":{"dtype":"F32","shape":[400],"data_offsets":[0,1600]}}',
            "more values than bytes": b'{"a":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,16]}}',
            "another type": b'{"a":{"dtype":"PICKLE","shape":[4],"data_offsets":[0,16]}}',
            "negative": b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,-16]}}',
            "twice": b'{"a":{"dtype":"U8","shape":[32],"data_offsets":[0,32]},"a":{"dtype":"U8","shape":[32],'
            b'"data_offsets":[32,64]}}',
            "no header": b"[]",
        }.items()
    },
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_headers_of_safetensors(run: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / adapter.CONFIG_FILE).write_text('{"peft_type": "LORA", "r": 2}')
    (folder / adapter.TENSORS_FILE).write_bytes(content)
    with pytest.raises(SourceError, match=r"adapter_model\.safetensors"):
        adapter.load(folder, sources.get(str(run)).network())
    shutil.copytree(run / "best", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=str(tmp_path / "model")):
        bequest.load(tmp_path / "model")
    shard = tmp_path / "x-00000000.shard2"
    shard.write_bytes(content)
    with pytest.raises(DamagedShard):
        read_shard(shard)[0].open()


@pytest.mark.parametrize(
    ("num_records", "lengths"), [(10**12, []), (2**62, []), (-1, []), (2, [3, -1]), (2, [1, 2**40])]
)
def test_a_shard_that_has_not_what_its_header_says(tmp_path: Path, num_records: int, lengths: list[int]) -> None:
    described = {
        "__metadata__": {"seconds": "1.0"},
        "hashes": {"dtype": "U8", "shape": [num_records, 16]},
        "values": {"dtype": "F32", "shape": [2]},
    }
    header, values = json.dumps(described).encode(), bytes(8)
    lead = len(header).to_bytes(8, "little") + header + bytes(16 * len(lengths))
    file = tmp_path / "x-00000000.shard2"
    file.write_bytes(lead + b"".join(n.to_bytes(8, "little", signed=True) for n in lengths) + values)
    with pytest.raises(DamagedShard):
        read_shard(file)


@given(data=st.data())
def test_an_adapters_configuration(run: Path, tmp_path: Path, data: st.DataObject) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "rank_pattern": {"query": 2}}
    config |= {
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "init_lora_weights": True,
        "bias": "none",
    }
    place = data.draw(st.sampled_from(sorted(places(config), key=str)))
    new = data.draw(st.one_of(FORGED, st.just("("), st.just({"(": 1}), st.just({"query": "x"})))
    (folder / adapter.CONFIG_FILE).write_text(json.dumps(forged(config, place, new)))
    name = f"{'base_model.model.'}encoder.layer.0.attention.self.query.lora_"
    tensors = {f"{name}A.weight": torch.zeros(2, 16), f"{name}B.weight": torch.zeros(16, 2)}
    save_file(tensors, folder / adapter.TENSORS_FILE)
    network = sources.get(str(run)).network()
    try:
        adapter.load(folder, network)
    except SourceError as error:
        assert "adapter" in str(error)


def test_a_tuners_settings_cannot_reach_for_pickles_or_code() -> None:
    for name, value in (
        ("tokenizer_kwargs", {"trust_remote_code": True}),
        ("prompt_tuning_init_state_dict_path", "evil.pt"),
        ("megatron_config", {"a": 1}),
    ):
        with pytest.raises(MethodError, match=name):
            configured({"peft_type": "MULTITASK_PROMPT_TUNING" if "path" in name else "PROMPT_TUNING", name: value})
