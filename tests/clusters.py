"""Ray on this machine, for tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import free_port


@contextmanager
def two_cores() -> Generator[Any]:
    """A machine of two cores, which no other process finds and that finds no other."""
    with _started() as made:
        import ray

        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
        ray.shutdown()


@contextmanager
def elsewhere() -> Generator[str]:
    """The address of such a machine's client server; this process is no part of it."""
    port = free_port()
    with _started(ray_client_server_port=port):
        yield f"ray://127.0.0.1:{port}"


@contextmanager
def _started(**options: Any) -> Generator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # of 15, they come after whatever else the machine does
        # Workers import the tests' own modules by their names.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **options})
        yield made
        made.shutdown()


@contextmanager
def one_thread() -> Generator[None]:
    """What a worker with one core computes with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
