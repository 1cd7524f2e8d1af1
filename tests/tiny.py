"""Tiny random networks and small learnable tasks, for tests of mechanics."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

WORDS = {
    "sport": ["ball", "goal", "team", "match", "referee"],
    "food": ["soup", "bread", "salt", "oven", "plate"],
    "music": ["song", "choir", "drum", "violin", "note"],
}


def image_source() -> Any:
    """A convolutional network with BatchNorm, a depthwise convolution and dropout; arrays (3, 12, 12) in."""
    import torch
    from torch import nn

    from bequest.sources import from_module

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
            self.pointwise = nn.Conv2d(width, width, 1)
            self.norm = nn.BatchNorm2d(width)
            self.dropout = nn.Dropout(0.2)

        def forward(self, x: Any) -> Any:
            return x + self.dropout(torch.relu(self.norm(self.pointwise(self.depthwise(x)))))

    torch.manual_seed(7)
    network = nn.Sequential()
    network.add_module("stem", nn.Conv2d(3, 8, 3, stride=2, padding=1))
    network.add_module("blocks", nn.Sequential(Block(8), Block(8), Block(8)))
    network.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("fc", nn.Linear(8, 5))
    # Statistics that differ from what a batch has, so that a BatchNorm left in train mode shows.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return from_module(network, name="tiny_conv")


def teacher_of(source: Any, task: Any, *, seed: int = 0, classes: tuple[str, ...] | None = None) -> Any:
    """A source with a random head whose logits are of some size, as a teacher."""
    from dataclasses import replace

    import torch

    from bequest.nn.head import new_head

    network = source.network()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.head = new_head("linear", source.width, len(task.classes))
        torch.nn.init.normal_(network.head.weight, std=2.0)
    return replace(source, name=f"teacher {seed}", pretrained=lambda: network, classes=classes or task.classes)


def text_source() -> Any:
    """A BERT of two layers with a vocabulary of our own."""
    import torch
    from transformers import BertConfig

    from bequest.nn.network import Network
    from bequest.sources import transformers
    from bequest.sources.preprocess import TextPreprocess

    preprocess = TextPreprocess(tokenizer_json(), max_tokens=16)
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    description = {"kind": "transformers", "config": config.to_dict(), "pooling": "mean"}
    source = transformers.from_description("tiny_bert", description, preprocess)

    def pretrained() -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            return source.untrained()

    from dataclasses import replace

    return replace(source, pretrained=pretrained)


def language_source(*, tied: bool = True, max_tokens: int = 8) -> Any:
    """A Llama of two layers with the same vocabulary, and its own last layer."""
    import torch
    from transformers import LlamaConfig

    from bequest.nn.network import Network
    from bequest.sources import transformers
    from bequest.sources.language import LanguagePreprocess
    from bequest.sources.preprocess import TextPreprocess

    preprocess = LanguagePreprocess(TextPreprocess(tokenizer_json(), max_tokens), "[UNK]")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=True,
        eos_token_id=1,
    )
    description = {"kind": "transformers", "config": config.to_dict(), "form": "causal-lm"}
    source = transformers.from_description("tiny_llama", description, preprocess)

    def pretrained() -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12)
            return source.untrained()

    from dataclasses import replace

    return replace(source, pretrained=pretrained)


def language_task(num_samples: int = 60, *, pairs: bool = False) -> Any:
    """Texts in which words of one topic follow each other in the same order; some are longer than a window."""
    from bequest.data import from_texts

    rng = np.random.default_rng(8)
    names, texts = list(WORDS), []
    while len(texts) < num_samples:
        words = [*WORDS[names[len(texts) % 3]], "the", "a", "of"]
        start, length = rng.integers(len(words)), rng.integers(3, 20)
        text = " ".join(words[(start + i + (rng.random() < 0.2)) % len(words)] for i in range(length))
        if text not in texts:
            texts.append(text)
    if not pairs:
        return from_texts(texts, name="tiny documents")
    halves = [(" ".join(text.split()[:2]), " ".join(text.split()[2:])) for text in texts]
    return from_texts(list(dict.fromkeys(halves)), name="tiny pairs")


def tokenizer_json() -> str:
    """A word-level tokenizer in the format of the tokenizers library."""
    words = ["[PAD]", "[UNK]", *(word for group in WORDS.values() for word in group), "the", "a", "of"]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "[UNK]"},
        }
    )


def image_task(num_samples: int = 90) -> Any:
    """Arrays (3, 12, 12) of three classes: noise, brighter in one channel."""
    from bequest.data import from_arrays

    rng = np.random.default_rng(3)
    labels = np.arange(num_samples) % 3
    pixels = rng.normal(size=(num_samples, 3, 12, 12)).astype(np.float32)
    pixels[np.arange(num_samples), labels] += 0.7
    return from_arrays(pixels, [f"channel {c}" for c in labels], name="tiny images")


def text_task(num_samples: int = 90) -> Any:
    """Short texts of mixed length, three classes that differ in their words."""
    from bequest.data import from_arrays

    rng = np.random.default_rng(4)
    names = list(WORDS)
    texts, labels = [], []
    while len(texts) < num_samples:
        label = names[len(texts) % 3]
        words = rng.choice([*WORDS[label], "the", "a", "of"], size=rng.integers(2, 14))
        if " ".join(words) not in texts:
            texts.append(" ".join(words))
            labels.append(label)
    return from_arrays(texts, labels, name="tiny texts")


def labels_task(num_samples: int = 90) -> Any:
    """Arrays (3, 12, 12), each brighter in any of the channels: the labels that it carries."""
    from bequest.data import from_arrays

    rng = np.random.default_rng(5)
    labels = (rng.random((num_samples, 3)) < 0.4).astype(np.int64)
    pixels = rng.normal(size=(num_samples, 3, 12, 12)).astype(np.float32) + labels[:, :, None, None]
    return from_arrays(pixels, labels, classes=["red", "green", "blue"], name="tiny labels", task="multi-label")


def values_task(num_samples: int = 90) -> Any:
    """Arrays (3, 12, 12) and two numbers of very different size: the brightness of two channels."""
    from bequest.data import from_arrays

    rng = np.random.default_rng(6)
    levels = rng.normal(size=(num_samples, 2))
    pixels = rng.normal(size=(num_samples, 3, 12, 12))
    pixels[:, :2] += levels[:, :, None, None]
    values = levels * [20.0, 0.01] + [1000.0, 0.0]
    return from_arrays(pixels.astype(np.float32), values, classes=["big", "small"], name="tiny values")


def photo_task(width: int, height: int) -> Any:
    """30 images of three classes: noise, brighter in one channel."""
    from PIL import Image

    from bequest.data import from_arrays

    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    pixels = rng.integers(0, 120, (30, height, width, 3), dtype=np.uint8)
    pixels[np.arange(30), :, :, labels] += 100
    return from_arrays([Image.fromarray(p) for p in pixels], [f"class {c}" for c in labels], name="photos")
