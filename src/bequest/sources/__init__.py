"""Pretrained networks with their preprocessing: `get("minilm_l6")`, or `from_module(...)` for one of yours."""

from bequest.sources.adapter import with_adapter
from bequest.sources.catalogue import FORMS, get, hub_name, names, resolve
from bequest.sources.initialise import initialise, member
from bequest.sources.module import from_module
from bequest.sources.saved import from_description, from_run
from bequest.sources.source import Source

__all__ = [
    "FORMS",
    "Source",
    "from_description",
    "from_module",
    "from_run",
    "get",
    "hub_name",
    "initialise",
    "member",
    "names",
    "resolve",
    "with_adapter",
]
