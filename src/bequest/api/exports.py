"""A trained model in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from bequest.api.inputs import load_recorded, read_task
from bequest.api.runs import Run
from bequest.comparison.export import Exported
from bequest.comparison.export import export as run_export
from bequest.comparison.folder import RUN_FILE, RunFolder
from bequest.core.errors import RunError
from bequest.core.task import Task
from bequest.engine.formats import TOLERANCE, choose_format
from bequest.sources import Source

FormatName = Literal["onnx", "torch-export", "safetensors", "hf", "timm", "peft"]


def export(
    run: str | Path | Run,
    path: str | Path,
    *,
    format: FormatName | None = None,
    method: str | None = None,
    seed: int | None = None,
    source: Source | None = None,
    data: Any = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write what a run trained for other tools; nothing is trained again.

    What was written is loaded with the tool that users load it with, and computes on 32 real samples what PyTorch
    computes, before it takes its name. docs/shipping.md tells what each format holds and how it is used:

    - `onnx`: head included, any batch, any length of texts; preprocessing and labels as metadata;
    - `torch-export`: the same as a program of PyTorch's, without Bequest's code;
    - `safetensors`: a plain state dict, with the same metadata;
    - `hf`: a folder for `from_pretrained` of transformers, where the source is from there and the head fits;
    - `timm`: a folder for `timm.create_model`, where the source is from there;
    - `peft`: a folder with a low-rank method's updates and its head, for `peft.PeftModel.from_pretrained`.

    Args:
        run: A run, or the folder of one, or of a saved model.
        path: Where the file goes, or the files; a folder must be new or empty.
        format: One of those; None goes by the suffix of the path (.onnx, .pt2, .safetensors).
        method: The method's name; None for the best one, of `peft` the best that has low-rank layers.
        seed: The trial's; None for the median one by the held-out score.
        source: Needed where the run was made from an `nn.Module` of yours.
        data: Real samples to try the file on, as for `compare`; None for the run's own. Needed where the run was made
            from data that only Python had, or they have been moved.
        tolerance: How far outputs may be from PyTorch's: this part of the largest output, or of 1 where that is more.

    Raises:
        bequest.core.errors.BequestError: One of its kinds: the run has no such trial, the format has no place for the
            model, a package is missing, outputs differ by more than the tolerance, or a file cannot be written.
    """
    place, path = run.folder if isinstance(run, Run) else Path(run), Path(path)
    form = choose_format(path, format)
    if not 0 < tolerance < 1:
        raise RunError(f"--tolerance is {tolerance}; expected a number between 0 and 1, e.g. {TOLERANCE:g}.")
    made_from = source or (run._source if isinstance(run, Run) else None)  # pyright: ignore[reportPrivateUsage]
    known = run._task if isinstance(run, Run) else None  # pyright: ignore[reportPrivateUsage]
    task = known if known is not None and data is None else _samples_of(place, data)
    return run_export(place, path, task, form=form, method=method, seed=seed, source=made_from, tolerance=tolerance)


def _samples_of(folder: Path, data: Any) -> Task:
    """The data that a run was made from, or those that are given in their place."""
    origin = (RunFolder(folder).settings.get("data") or {}) if (folder / RUN_FILE).is_file() else {}
    if data is None and not origin:
        raise RunError(
            f"{folder} does not say where its data lie, and a file is tried on real samples; expected some. Give "
            "them: --data PATH, or bequest.export(run, path, data=...)."
        )
    if origin and (data is None or isinstance(data, str | Path)):
        return load_recorded(origin, data)
    return read_task(data, "auto", {})
