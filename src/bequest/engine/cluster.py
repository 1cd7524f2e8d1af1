"""The connection to Ray, and what a task of ours asks of it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import bequest
from bequest.core.errors import DataError, RunError, first_line
from bequest.core.processes import launched

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_LEAST = 0.0001
"""Share of a core or an accelerator: what Ray counts in."""
_EXPECTED = "expected cpus, gpus and memory, each with an amount, e.g. cpus=2,gpus=0.5,memory=4GB"


@dataclass(frozen=True)
class Resources:
    """What one task has for itself.

    Attributes:
        cpus: Cores, which is also how many threads it computes with.
        gpus: Accelerators, or a fraction of one.
        memory: Bytes of main memory; 0 states none.
    """

    cpus: float = 1
    gpus: float = 0
    memory: int = 0

    def describe(self) -> dict[str, float]:
        """As Ray takes them."""
        stated = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return {**stated, "memory": self.memory} if self.memory else stated

    @property
    def threads(self) -> int:
        """To compute with."""
        return max(1, int(self.cpus))

    def __str__(self) -> str:
        """As users state them."""
        stated = {"cpus": self.cpus, "gpus": self.gpus, "memory": self.memory}
        return ",".join(f"{name}={amount:g}" for name, amount in stated.items() if amount)

    def times_in(self, there: Mapping[str, float]) -> int:
        """How many tasks have room beside each other.

        Args:
            there: What a machine or a cluster has, by Ray's names.
        """
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return min(int(there.get(name, 0) // amount) for name, amount in wanted.items() if amount)

    def fit(self, ray: Any) -> bool:
        """Whether some machine of the cluster has as much, free or not."""
        return any(self.times_in(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def require(self, ray: Any) -> None:
        """Raise `RunError` where no machine of the cluster has as much: what asks for it would wait for ever."""
        if not self.fit(ray):
            raise RunError(
                f"--resources asks for {self} a task, which no machine of the cluster has; expected at "
                "most what one has. State less, or add such a machine first."
            )


def resources(text: str | None) -> Resources:
    """Resources from text such as `cpus=2,gpus=0.5,memory=4GB`; None for one core.

    Raises:
        DataError: A name or an amount is none.
    """
    amounts: dict[str, float] = {}
    for part in text.split(",") if text else ():
        found = re.fullmatch(r"\s*(cpus|gpus|memory)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?B)?\s*", part, re.IGNORECASE)
        name = found and found[1].lower()
        if not found or name in amounts or (found[3] and name != "memory"):
            raise DataError(f"--resources is {text!r}; {_EXPECTED}.")
        amounts[str(name)] = float(found[2]) * _UNITS[(found[3] or "").upper()]
    chosen = Resources(amounts.get("cpus", 1), amounts.get("gpus", 0), int(amounts.get("memory", 0)))
    if chosen.cpus < _LEAST or 0 < chosen.gpus < _LEAST:
        raise DataError(f"--resources is {text!r}; {_EXPECTED}, of cpus {_LEAST} at least.")
    if chosen.gpus > 1 and chosen.gpus % 1:
        raise DataError(f"--resources is {text!r}; {_EXPECTED}, of gpus a whole number or a part of one.")
    return chosen


def _is_address(text: str) -> bool:
    found = re.fullmatch(r"ray://(?:\[[0-9a-fA-F:.]+\]|[^/\s:\[\]]+):(\d{1,5})", text)
    return found is not None and 0 < int(found[1]) < 2**16


@contextmanager
def connected(address: str, asked: Resources) -> Iterator[Any]:
    """Ray, connected; what is not ours is left as it was.

    Args:
        address: `ray` for the cluster that this machine is part of, or else one of this machine alone that ends with
            the context; `ray://HOST:PORT` for one elsewhere.
        asked: What some machine of it must have.

    Yields:
        The module `ray`.

    Raises:
        DataError: The address is none, or this process is one of several that were launched.
        RunError: Ray is not installed, nothing answers there, or no machine has what is asked for.
    """
    if address != "ray" and not _is_address(address):
        raise DataError(f"--on is {address!r}; expected ray, or ray://HOST:PORT of a cluster.")
    if launched().number > 1:
        raise DataError(
            f"--on is {address!r}, and {launched().number} processes were launched for this command; expected one way "
            "of doing more at once. Start it without accelerate launch, or leave --on out."
        )
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise RunError(
            "--on ray needs the package ray, which is not installed; expected bequest with its extra: "
            "pip install 'bequest[ray]'. Or leave --on out."
        ) from error
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address if address != "ray" else None, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, RayError) as error:
            place = os.environ.get("RAY_ADDRESS", "this machine") if address == "ray" else address
            raise RunError(
                f"No cluster of Ray answers at {place} ({first_line(error)}); expected one whose versions of Ray and "
                "Python are those here, and its token where it asks for one (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN). "
                "Start it (`ray start --head`), or name none: --on ray, with RAY_ADDRESS unset."
            ) from error
    try:
        asked.require(ray)
        yield ray
    finally:
        if own:
            ray.shutdown()


def versions() -> dict[str, str]:
    """Of what must be the same in all processes that compute for one run."""
    return {"bequest": bequest.__version__, "torch": torch.__version__}


def check_versions(begun: Mapping[str, str]) -> None:
    """Refuse, in a worker, to compute for a process that has others.

    Args:
        begun: What `versions` gives there.

    Raises:
        RunError: They differ.
    """
    if begun != versions():
        there, here = (", ".join(f"{name} {version}" for name, version in v.items()) for v in (begun, versions()))
        raise RunError(
            f"A worker of Ray has {here}; expected the versions that the command began with, {there}. Install the "
            "same on every machine of the cluster."
        )
