"""Low-rank layers: W + s·B·A with W frozen, for LoRA and what builds on it.

Hu et al. 2022, arXiv:2106.09685, section 4.1. `add_low_rank` wraps layers by name, `merge_low_rank` unwraps them and
can be undone. Every low-rank layer has the frozen layer as `base`, the factors `A` and `B`, `scale` (s), `dropout`,
`weight` (the sum) and `merged()`.
"""

from bequest.nn.lowrank.initialisation import start_from_principal
from bequest.nn.lowrank.layers import LowRankConv2d, LowRankEmbedding, LowRankLinear
from bequest.nn.lowrank.surgery import LowRank, Merge, add_low_rank, low_rank_layers, merge_low_rank
from bequest.nn.lowrank.targets import by_pattern, targets

__all__ = [
    "LowRank",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLinear",
    "Merge",
    "add_low_rank",
    "by_pattern",
    "low_rank_layers",
    "merge_low_rank",
    "start_from_principal",
    "targets",
]
