"""Pretrained networks with their preprocessing: `get("minilm_l6")`, or `from_module(...)` for one of yours."""

from bequest.sources.catalogue import from_description, get, names
from bequest.sources.module import from_module
from bequest.sources.source import Source

__all__ = ["Source", "from_description", "from_module", "get", "names"]
