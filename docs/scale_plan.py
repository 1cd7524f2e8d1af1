"""A plan on paper: what 10⁹ images and 10⁴ trials take by each engine, from our measurements and stated assumptions.

    python docs/scale_plan.py                         print the plan, and put it into docs/scale.md
    python docs/scale_plan.py --core-hour 0.02 --print-only

What was measured is read from benchmarks/results/ and claims/results/, or stands in `Measured` with where it is from.
All that is not measured is a flag. Prices are list prices of large clouds, rounded: assumptions, to be replaced.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- plan: made by docs/scale_plan.py -->", "<!-- plan: end -->"


def described(text: str, default: float) -> float:
    """A number with what it is."""
    from dataclasses import field

    return field(default=default, metadata={"text": text})


@dataclass(frozen=True)
class Assumed:
    """What is not measured."""

    images: float = described("images", 1e9)
    trials: float = described("trials", 1e4)
    cores: float = described("cores of the cluster", 1024)
    machine_cores: float = described("cores of one machine", 64)
    machine_memory_gb: float = described("memory of one machine, GB", 256)
    image_bytes: float = described("bytes of an image, a JPEG of 500 × 375", 110e3)
    link_gbit: float = described("network of a machine, Gbit/s", 25)
    disk_mb_s: float = described("what a disk writes, MB/s", 500)
    core_hour: float = described("price of a core for an hour, $", 0.04)
    tb_month: float = described("price of a TB of an object store for a month, $", 23)
    million_gets: float = described("price of a million reads of an object store, $", 0.40)


@dataclass(frozen=True)
class Measured:
    """What our own benchmarks and code say."""

    images_s: float
    record_bytes: float
    start_s: float
    task_s: float
    trial_s: float
    source: dict[str, str]
    index_bytes: int = 32
    encoded_bytes: int = 224 * 224 * 3
    trial_record_bytes: int = 5700
    body_bytes: int = 4 * 3_371_008
    shard_images: int = 4096


def measured() -> Measured:
    """From the kept results."""
    passes = json.loads((ROOT / "benchmarks/results/ray_features.json").read_text())
    family = json.loads((ROOT / "claims/results/finetuning_family.json").read_text())
    ratio = next(e for e in passes if e["name"] == "Ray Data / shards, in process")
    taken = [ratio["seconds"][name] for name in ("shards, Ray Data", "shards, here")]
    start = max(0.0, median(there - here for there, here in zip(*taken, strict=True)))
    full = family["fashion-1000"]["full"]["seconds"]
    at = f"benchmarks/results/ray_features.json, {ratio['images']:,} images"
    return Measured(
        30.0,
        ratio["bytes_per_record"],
        start,
        ratio["seconds_per_empty_task"],
        sum(full) / len(full),
        {
            "images a second of a core, EfficientNet-Lite0 at 224 px, float32": "30, half of what 2 cores do "
            "(`choose_runtime`, src/bequest/engine/runtime.py)",
            "bytes of a record in a shard, 1,280 features": f"{ratio['bytes_per_record']:,.0f} ({at})",
            "seconds more by Ray Data than here, a worker": f"{start:.1f} ({at}; taken for its start)",
            "seconds of a task of Ray that does nothing": f"{ratio['seconds_per_empty_task']:.4f} ({at})",
            "seconds of a trial, full fine-tuning, 1,000 labels, 64 px, one thread": f"{sum(full) / len(full):.0f} "
            "(claims/results/finetuning_family.json)",
            "bytes of the store's index in memory for a record": "32 (hash 16, place 16: src/bequest/engine/store.py)",
            "bytes of an encoded sample, 224 px": "150,528 (uint8, height × width × 3)",
            "bytes of a trial's record": "5,700 (leaderboard.json of a run of one linear probe)",
            "bytes of the body's gradient": "13.5 million (3,371,008 parameters, float32)",
        },
    )


@dataclass(frozen=True)
class Row:
    """A piece of work by one engine."""

    work: str
    engine: str
    core_hours: float
    hours: float
    read_bytes: float
    stored_bytes: float
    price: float

    def cells(self) -> list[str]:
        """As the table has them."""
        amounts = [f"{self.core_hours:,.0f}", duration(self.hours), size(self.read_bytes), size(self.stored_bytes)]
        return [self.work, self.engine, *amounts, f"{self.price:,.0f}"]


def rows(a: Assumed, m: Measured) -> list[Row]:
    """The plan."""
    forward = a.images / m.images_s / 3600
    store, read = a.images * m.record_bytes, a.images * a.image_bytes
    shards = a.images / m.shard_images

    def price(core_hours: float, stored: float, reads: float) -> float:
        return core_hours * a.core_hour + stored / 1e12 * a.tb_month + reads / 1e6 * a.million_gets

    def row(work: str, engine: str, core_hours: float, cores: float, sizes: tuple[float, float], reads: float) -> Row:
        return Row(work, engine, core_hours, core_hours / cores, *sizes, price(core_hours, sizes[1], reads))

    trial_hours = a.trials * m.trial_s / 3600
    spread = trial_hours + a.trials * m.task_s / 3600
    outcomes = a.trials * m.body_bytes
    every = "all images: features"
    tried = f"{a.trials:,.0f} trials: full, 1,000 labels"
    train = "all images: one epoch, everything trained"
    encoded = a.images * m.encoded_bytes
    return [
        row(every, "in-process, one machine", forward, a.machine_cores, (read, store), shards),
        row(every, "Ray Data", forward + a.cores * m.start_s / 3600, a.cores, (read, store), shards),
        row(tried, "in-process, one core", trial_hours, 1, (0, outcomes), 0),
        row(tried, "Ray trials", spread, min(a.cores, a.trials), (0, outcomes), 0),
        row(train, "in-process, one machine", 3 * forward, a.machine_cores, (read, encoded), shards),
        row(train, "accelerate", 3 * forward, a.cores, (read, encoded), shards),
    ]


def breaks(a: Assumed, m: Measured) -> list[str]:
    """Where each gives way first, with the numbers."""
    forward = a.images / m.images_s / 3600
    index, memory = a.images * m.index_bytes, a.machine_memory_gb * 1e9
    outcomes = a.trials * m.body_bytes
    per_machine = a.machine_cores * m.images_s * a.image_bytes * 8 / 1e9
    shards = a.images / m.shard_images
    steps = 32 * a.cores / a.machine_cores
    traffic = 2 * m.body_bytes * 8 / 1e9 / a.link_gbit
    compute = 32 * 3 / m.images_s / a.machine_cores
    return [
        f"**In-process** gives way by time: a pass takes {duration(forward / a.machine_cores)} with all "
        f"{a.machine_cores:g} cores at work, and trials run one at a time: {a.trials:,.0f} take "
        f"{duration(a.trials * m.trial_s / 3600)}. Memory comes next: the store's index takes "
        f"{m.index_bytes} bytes a record, {size(index)} of {size(memory)}, so it holds "
        f"{memory / m.index_bytes / 1e9:.1f}·10⁹ records at most.",
        f"**Ray trials** give way at the process that collects them. It alone writes what trials trained, "
        f"{size(m.body_bytes)} each: {duration(outcomes / a.disk_mb_s / 1e6 / 3600)} at {a.disk_mb_s:g} MB/s, beside "
        f"{duration(a.trials * m.trial_s / 3600 / min(a.cores, a.trials))} of trials; with more than about "
        f"{crossing(a, m):,.0f} cores they end faster than they are written. The leaderboard of "
        f"{a.trials:,.0f} trials is {size(a.trials * m.trial_record_bytes)}, so that between trials it is made for a "
        f"tenth of the time at most. Scheduling does not matter: "
        f"{m.task_s * 1e3:.1f} ms a task. Each machine also makes the frozen passes that it needs into its "
        f"own store, so what is shared is computed once a machine: 10⁹ images are for the pass, not for trials.",
        f"**Ray Data passes** give way by the network last: {a.machine_cores:g} cores at {m.images_s:g} images/s read "
        f"{per_machine:.1f} Gbit/s of {a.link_gbit:g}. What breaks first is the list of files: loose images are listed "
        f"by one process, which holds a name and a size for each, about 300 bytes, {size(a.images * 300)} for all; so "
        f"keep them in tars or Parquet files. {shards:,.0f} shards are 4,096 tasks, about "
        f"{shards / 4096:.0f} shards each, and a manifest of about {size(shards * 150)}. A pass "
        f"that goes on has the process that begins it compare all that is finished with its checksums: up to "
        f"{size(a.images * m.record_bytes)}, {duration(a.images * m.record_bytes / a.disk_mb_s / 1e6 / 3600)} at "
        f"{a.disk_mb_s:g} MB/s.",
        f"**accelerate** gives way by the store: training everything keeps each encoded sample, "
        f"{size(m.encoded_bytes)} of it, {size(a.images * m.encoded_bytes)} in all, "
        f"{m.encoded_bytes / a.image_bytes:.1f} times the JPEGs. Gradients are no bottleneck at "
        f"{steps:,.0f} samples a step over "
        f"{a.cores / a.machine_cores:.0f} machines: {traffic * 1e3:.0f} ms on the network beside "
        f"{compute * 1e3:.0f} ms of computing, if neither hides the other.",
    ]


def crossing(a: Assumed, m: Measured) -> float:
    """Cores at which trials end as fast as one process writes what they trained."""
    return m.trial_s * a.disk_mb_s * 1e6 / m.body_bytes


def duration(hours: float) -> str:
    """Hours as people say them."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def size(num_bytes: float) -> str:
    """Bytes in decimal units."""
    if not num_bytes:
        return "–"
    power = min(5, int(math.log10(num_bytes) // 3))
    return f"{num_bytes / 1000**power:,.3g} {['B', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}"


def plan(a: Assumed, m: Measured) -> str:
    """The section of the page."""
    head = ["what", "by", "core hours", "time", "read", "stored", "$"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- |" + " ---: |" * 5]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows(a, m)]
    lines += ["", "Time takes cores to add up. `$` is for the cores, the reads, and a month of what is stored.", ""]
    lines += [f"- {sentence}" for sentence in breaks(a, m)]
    lines += ["", "| measured | value and source |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in m.source.items()]
    lines += ["", "| assumed (a flag of `docs/scale_plan.py`) | value |", "| --- | ---: |"]
    lines += [
        f"| {f.metadata['text']} (`--{f.name.replace('_', '-')}`) | {getattr(a, f.name):,.12g} |" for f in fields(a)
    ]
    return "\n".join(lines)


def filled(page: str, section: str) -> str:
    """The page with the section between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def main() -> None:
    """Print the plan, and write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Assumed):
        assert f.default is not MISSING
        told = f"{f.metadata['text']} (default: {f.default:g})"
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=float, default=f.default, help=told)
    parser.add_argument("--print-only", action="store_true", help="leave the page as it is")
    options = vars(parser.parse_args())
    only = options.pop("print_only")
    section = plan(Assumed(**options), measured())
    print(section)
    if not only:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), section), encoding="utf-8")


if __name__ == "__main__":
    main()
