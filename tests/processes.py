"""Several processes on one machine that exchange by gloo, as a launcher starts them."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def environment(rank: int, number: int, port: int) -> dict[str, str]:
    """What a launcher sets for one of them."""
    of_all = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
    return {name: str(value) for name, value in {**of_all, **own}.items()}


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(function: Callable[..., Any], *args: Any, number: int = 2, timeout: float = 400) -> list[Any]:
    """What a function of a test module returns in each of several processes; an exception is returned as its text.

    Args:
        function: Importable by name.
        args: What it is called with.
        number: Of processes.
        timeout: Seconds after which a process that has said nothing has failed.
    """
    import torch.multiprocessing as mp

    spawning, port = mp.get_context("spawn"), free_port()
    pipes = [spawning.Pipe(duplex=False) for _ in range(number)]
    started = [
        spawning.Process(target=_run, args=(environment(rank, number, port), theirs, function, args))
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process, (_, theirs) in zip(started, pipes, strict=True):
        process.start()
        theirs.close()
    try:
        return [_received(ours, timeout) for ours, _ in pipes]
    finally:
        for process in started:
            process.join(10)
            process.kill()


def _received(pipe: Connection, timeout: float) -> Any:
    if not pipe.poll(timeout):
        return "it says nothing"
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        return "it ended without a word"


def _run(variables: dict[str, str], pipe: Connection, function: Callable[..., Any], args: Any) -> None:
    os.environ.update(variables)
    import torch

    from bequest.engine import runtime

    torch.set_num_threads(1)
    runtime._bfloat16_in_hardware = lambda: False  # pyright: ignore[reportPrivateUsage]
    try:
        found = function(*args)
    except BaseException:
        found = traceback.format_exc()
    # As bytes: tensors would be shared with a process that has ended.
    pipe.send_bytes(pickle.dumps(found))
