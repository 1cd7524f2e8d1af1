"""One step of LoRA (forward, backward, AdamW) against peft's LoRA and against the limit, on equal weights and inputs.

    python benchmarks/lora_step.py
    python benchmarks/lora_step.py --only minilm --repeats 3

MiniLM-L6 on 16 texts of 128 tokens, a ViT-Tiny on 16 images of 224 px, and an encoder as wide as BERT-base with four
layers on 16 × 128 tokens: rank 8 on every linear layer below the head, with and without dropout 0.1 on the updates'
inputs, the network's own dropout off. The limit is what no LoRA can go below: the frozen forward pass and the gradients
of its activations. Before anything is timed, gradients without dropout are compared with peft's, and the bytes that
autograd keeps for the backward pass (each storage once, parameters and buffers left out) are counted.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from harness import interleaved, keep, ratio
from torch import Tensor, nn

from bequest.nn.lowrank import add_low_rank, low_rank_layers, targets

RANK, ALPHA, DROPOUT, STEPS = 8, 16, 0.1, 2


class Encoder(nn.Module):
    """The mean of a transformer's last hidden states; all tokens count."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids).last_hidden_state.mean(1)


def minilm(num_layers: int) -> tuple[nn.Module, Tensor, int]:
    from bequest import sources

    encoder = sources.get("minilm_l6").body.encoder
    encoder.encoder.layer = encoder.encoder.layer[:num_layers]
    return Encoder(encoder), torch.randint(1000, 20000, (16, 128)), 384


def vit(num_layers: int) -> tuple[nn.Module, Tensor, int]:
    import timm

    body = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=num_layers)
    return body, torch.randn(16, 3, 224, 224), 192


def wide(num_layers: int) -> tuple[nn.Module, Tensor, int]:
    from transformers import BertConfig, BertModel

    encoder = BertModel(BertConfig(num_hidden_layers=num_layers), add_pooling_layer=False)
    return Encoder(encoder), torch.randint(1000, 20000, (16, 128)), 768


CASES: dict[str, tuple[Callable[[int], tuple[nn.Module, Tensor, int]], int, str]] = {
    "minilm": (minilm, 6, "MiniLM-L6, 16 × 128"),
    "vit": (vit, 12, "ViT-Tiny, 16 × 224 px"),
    "wide": (wide, 4, "width 768, 16 × 128"),
}


class Side:
    """A network with its adapters, a head, an optimizer, and one batch.

    Attributes:
        factors: A and B of every layer, in the order of the layers.
    """

    def __init__(self, body: nn.Module, inputs: Tensor, width: int, kind: str, dropout: float) -> None:
        body = copy.deepcopy(body).requires_grad_(False)
        for module in body.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        names = targets(body)
        names = tuple(name for name in names if isinstance(body.get_submodule(name), nn.Linear))
        self.body, self.factors = getattr(self, kind)(body, names, dropout)
        self.body.train()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for factor in self.factors:
                factor.copy_(torch.randn(factor.shape, generator=generator) * 0.02)
            self.head = nn.Linear(width, 5)
            for parameter in self.head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        self.inputs, self.labels = inputs, torch.arange(len(inputs)) % 5
        self.trained = [*self.factors, *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6)

    def peft(self, body: nn.Module, names: tuple[str, ...], dropout: float) -> tuple[Any, list[nn.Parameter]]:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, target_modules=list(names))
        wrapped = get_peft_model(body, config)
        layers = [wrapped.base_model.model.get_submodule(name) for name in names]
        return wrapped, [f for m in layers for f in (m.lora_A["default"].weight, m.lora_B["default"].weight)]

    def ours(self, body: nn.Module, names: tuple[str, ...], dropout: float) -> tuple[Any, list[nn.Parameter]]:
        add_low_rank(body, names, RANK, ALPHA, dropout)
        return body, [factor for layer in low_rank_layers(body).values() for factor in (layer.A, layer.B)]

    def limit(self, body: nn.Module, names: tuple[str, ...], dropout: float) -> tuple[Any, list[nn.Parameter]]:
        def hook(_: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # As in LoRA, gradients are wanted of a layer's outputs, not of what comes before the first one.
            return output if output.requires_grad else output.requires_grad_()

        for name in names:
            body.get_submodule(name).register_forward_hook(hook)
        return body, []

    def loss(self) -> Tensor:
        return F.cross_entropy(self.head(self.body(self.inputs)), self.labels)

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def steps(self) -> None:
        for _ in range(STEPS):
            self.step()

    def gradients(self) -> list[Tensor]:
        self.loss().backward()
        found = [p.grad.clone() for p in self.trained if p.grad is not None]
        self.optimizer.zero_grad()
        return found

    def saved_bytes(self) -> int:
        owned = {t.untyped_storage().data_ptr() for t in [*self.parameters(), *self.body.buffers()]}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in owned:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        loss.backward()
        self.optimizer.zero_grad()
        return sum(saved.values())

    def parameters(self) -> list[Tensor]:
        return [*self.body.parameters(), *self.head.parameters()]


def compared(name: str, peft: Side, ours: Side) -> dict[str, Any]:
    """The largest difference of gradients, relative to each tensor's largest element, as a share of 1e-5."""
    pairs = zip(peft.gradients(), ours.gradients(), strict=True)
    worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    return ratio(f"{name}: largest difference of gradients from peft's / 1e-5", [worst], [1e-5], 1.0, "lower")


def measure(name: str, sides: dict[str, Side], repeats: int) -> list[dict[str, Any]]:
    entries = [compared(name, sides["peft"], sides["ours"])]
    kept = {kind: side.saved_bytes() / 1e6 for kind, side in sides.items()}
    megabytes = {kind: round(value, 1) for kind, value in kept.items()}
    for end in ("", ", dropout"):
        both = [kept["ours" + end]], [kept["peft" + end]]
        entry = ratio(f"{name}: kept for the backward pass, ours / peft{end}", *both, 1.0, "lower")
        entries.append({**entry, "megabytes": megabytes})
    taken = interleaved({kind: side.steps for kind, side in sides.items()}, repeats)
    for end, goal in (("", 0.85), (", dropout", 0.6)):
        ours, peft = taken["ours" + end], taken["peft" + end]
        entries.append(ratio(f"{name}: ours / peft{end}", ours, peft, goal, "lower"))
        entries.append(ratio(f"{name}: peft / limit{end}", peft, taken["limit"], 1.0, "higher"))
        entries.append(ratio(f"{name}: ours / limit{end}", ours, taken["limit"], 1.15, "lower"))
    return entries


def sides_of(case: str, num_layers: int | None = None) -> dict[str, Side]:
    make, layers, *_ = CASES[case]
    torch.manual_seed(0)
    body, inputs, width = make(num_layers or layers)
    kinds = {"peft": 0.0, "ours": 0.0, "limit": 0.0, "peft, dropout": DROPOUT, "ours, dropout": DROPOUT}
    return {kind: Side(body, inputs, width, kind.partition(",")[0], p) for kind, p in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(CASES))
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    entries = []
    for case, (*_, title) in CASES.items():
        if options.only in (None, case):
            entries += measure(title, sides_of(case), options.repeats)
    keep("lora_step" + (f"_{options.only}" if options.only else ""), entries)


if __name__ == "__main__":
    main()
