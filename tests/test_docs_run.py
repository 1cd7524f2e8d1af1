"""Every command and program of README.md and docs/ is executed, on small data under the names that the pages use.

The packaged sources are stood in for by random networks of the same kinds, a thousandth of their size, so that a page's
lines run as they are written; `SHORTER` says what is appended to them or replaced. A block that cannot run here has the
comment `<!-- not run: reason -->` before it in the page; its commands are parsed all the same. One that a test of its
own runs has `<!-- run by tests/… -->`, or stands on a page in `ELSEWHERE`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from bequest import sources
from bequest.cli import main as command_line
from bequest.core.registry import get_method
from bequest.sources import catalogue, transformers

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"sh", "bash", "console", "", "python", "toml", "json", "text"}

SHORTER: dict[str, str] = {
    "compare": "--seeds 1 --train-size 20 --test-size 12 --no-cut",
    "adapt": "--train-size 20 --test-size 12 --no-cut",
    "distill": "--seeds 1 --train-size 20 --test-size 12 --no-cut --epochs 1",
    "probe": "--train-size 20 --test-size 12",
    "suggest-lr": "--train-size 20 --test-size 12 --steps 30",
}
"""What is appended to a command; `compare` and `adapt` also train each method for one epoch."""

REPLACED = {
    "--init-width 192": "--init-width 16",
    "--train-sizes 25,50,100,200,400": "--train-sizes 12,20",
    "--methods full,galore,lora --measure-memory": "--methods linear_probe --measure-memory",
}
"""What is replaced in a command, for the stand-ins are 32 units wide, the data few, and memory is measured in a
process of each method, which loads the packaged source itself; each is found on some page."""

SHORTER_PROGRAMS = {
    'source="minilm_l6", train_size=200': 'source="minilm_l6", methods=["linear_probe"], seeds=1, train_size=20',
    '["minilm_l6", "minilm_l3"], train_size=200': '["minilm_l6", "minilm_l3"], train_size=20, test_size=12',
    '"lora", rank=16)': '"lora", rank=16, epochs=1)',
    "n_jobs=2": "cv=2",
}
"""What is replaced in a program; each is found on some page."""

ELSEWHERE = {
    "docs/sources.md": "tests/sources/test_guide.py",
    "docs/weight_selection.md": "tests/sources/test_initialise.py",
    "docs/data.md": "tests/test_readme.py",
    "docs/views.md": "tests/data/test_views.py",
    "docs/adding_a_method.md": "tests/test_docs.py",
}
"""Whose programs a test of their own runs, with what else it holds them to."""

PROGRAM = """import bequest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
run = bequest.compare("reviews.csv", "minilm_l6", ["lora"], settings={"lora": {"epochs": 1}}, seeds=1, train_size=20,
                      progress=False)
texts = ["soup and salt", "a ball in the goal", "bread of the oven", "the match of a team"]
documents = [f"{a} {b} {c} the" for a in ("soup", "ball", "song") for b in ("of", "a") for c in ("oven", "drum")]
labels = ["food", "sport", "food", "sport"]
"""
"""What fragments take as known: it is run before a program that imports nothing."""


@dataclass(frozen=True)
class Block:
    """A piece of a page that a reader would run.

    Attributes:
        page: Path from the root.
        line: Where it begins.
        language: Of the fence; `sh` where it is indented.
        text: Without fence and indentation.
        reason: What the comment before it says: why it is not run, or where it is; empty for those run here.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def commands(self) -> list[str]:
        """Its lines that a shell would run."""
        joined = self.text.replace("\\\n", " ")
        if "console" in self.language:
            return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


FENCED = re.compile(r"^(?:<!-- ((?:not run:|run by) [^>]*) -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"^(?:<!-- (not run: [^>]*) -->\n\n)?((?:^    (?:bequest|echo|pip|make|python) .*\n)+)", re.M)


def blocks() -> Iterator[Block]:
    for path in PAGES:
        text, page = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        for found in FENCED.finditer(text):
            yield Block(page, text[: found.start()].count("\n") + 1, found[2], found[3], found[1] or "")
        rest = FENCED.sub(lambda found: "\n" * found[0].count("\n"), text)
        for found in INDENTED.finditer(rest):
            line = rest[: found.start()].count("\n") + 1
            yield Block(page, line, "sh", re.sub("^    ", "", found[2], flags=re.M), found[1] or "")


BLOCKS = list(blocks())
PROGRAMS = [b for b in BLOCKS if b.language == "python" and b.page not in ELSEWHERE]
SHELL = [b for b in BLOCKS if b.language in {"sh", "bash", "console", ""}]
NOT_RUN = [b for b in BLOCKS if b.reason.startswith("not run")]


def bert(folder: Path, layers: int) -> None:
    import torch
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": layers}
    torch.manual_seed(layers)
    model: Any = BertModel(BertConfig(vocab_size=64, max_position_embeddings=40, **sizes))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")


def llama(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 12}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, num_key_value_heads=1, max_position_embeddings=64, eos_token_id=1, **sizes)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), unk_token="[UNK]", pad_token="[PAD]", eos_token="[UNK]"
    )
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small random networks under the names of the packaged ones."""
    folder = tmp_path_factory.mktemp("networks")
    bert(folder / "l6", 6)
    bert(folder / "l3", 3)
    llama(folder / "llama")

    def text(name: str, layers: str) -> Any:
        def make(*, max_tokens: int | None = None, pooling: str | None = None, **_: Any) -> Any:
            return transformers.from_folder(
                name, folder / layers, pooling=pooling or "mean", max_tokens=max_tokens or 8
            )

        return make

    def image(name: str) -> Any:
        def make(*, image_size: int | None = None, **_: Any) -> Any:
            found = sources.get("timm:test_efficientnet", image_size=image_size or 32, pretrained=False)
            return replace(found, name=name)

        return make

    def language(*, max_tokens: int | None = None, kind: Any = "classification", **_: Any) -> Any:
        return transformers.from_pretrained("smollm2", str(folder / "llama"), max_tokens=max_tokens or 8, kind=kind)

    with pytest.MonkeyPatch.context() as patch:
        for name, layers in (("minilm_l6", "l6"), ("minilm_l3", "l3")):
            patch.setitem(catalogue.EMBEDDED, name, text(name, layers))
        for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"):
            patch.setitem(catalogue.EMBEDDED, name, image(name))
        patch.setitem(catalogue.EMBEDDED, "smollm2", language)
        patch.setenv("BEQUEST_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, stand_ins: None) -> Path:
    """What the pages take for granted: data, runs and adapters under the names that they use."""
    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    task = tiny.text_task(48)
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(text, task.classes[label]) for text, label in zip(task.samples, task.labels, strict=True)]
        csv.writer(file).writerows([("text", "label"), *rows])
    for number in range(40):
        place = folder / "photos" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 100
        Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "holiday").mkdir()
    for name in ("a.jpg", "b.jpg", "beach.jpg", "holiday/c.jpg"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "letter.txt").write_text("soup and salt", encoding="utf-8")
    (folder / "new.csv").write_text("number,text\n1,soup and salt\n2,a ball in the goal\n", encoding="utf-8")
    letters = [str(text) for text in tiny.language_task(40).samples]
    for place in (folder / "letters", folder / "articles"):
        place.mkdir()
        for number, text in enumerate(letters):
            (place / f"{number}.txt").write_text(text, encoding="utf-8")
    with (folder / "faq.jsonl").open("w", encoding="utf-8") as file:
        pairs = (text.split(maxsplit=2) for text in letters)
        lines = ({"prompt": f"{a} {b}", "completion": c[0]} for a, b, *c in pairs if c)
        file.writelines(json.dumps(line) + "\n" for line in lines)
    llama(folder / "my-llama")
    (folder / "oft.json").write_text('{"peft_type": "OFT", "oft_block_size": 8, "r": 0}', encoding="utf-8")
    common = "--train-size 20 --test-size 12 --no-cut --quiet"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "compare reviews.csv --source minilm_l6 --methods linear_probe,lora --set lora.epochs=1 --seeds 2 "
            f"{common} --out runs/reviews",
            f"adapt reviews.csv --source minilm_l6 --method linear_probe {common} --out runs/teacher",
            f"adapt photos/ --source efficientnet_lite0 --method lora --epochs 1 {common} --out runs/photos",
            f"adapt photos/ --source efficientnet_lite2 --method linear_probe {common} --out runs/lite2",
            f"adapt articles/ --source smollm2 --task causal-lm --method lora --epochs 1 {common} --out runs/articles",
            "export runs/reviews shipped/model.onnx",
            "export runs/reviews adapters/reviews --format peft --method lora",
            "export runs/reviews adapters/letters --format peft --method lora --seed 1",
        ):
            assert command_line.main(shlex.split(line)) == 0, line
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one block to work in."""
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def shorter(words: list[str]) -> list[str]:
    """A command's words with what makes it short."""
    command, options = words[0], command_line._parser().parse_args(words)
    appended = SHORTER.get(command, "")
    if getattr(options, "train_sizes", None):
        appended = appended.replace("--train-size 20 ", "")
    words = [*words, *appended.split()]
    if command in ("compare", "adapt"):
        by_default = "linear_probe,full,freeze,lora" if command == "compare" else "linear_probe"
        chosen = getattr(options, "methods", None) or getattr(options, "method", None) or by_default
        trained = [m for m in chosen.split(",") if "epochs" in {h.name for h in get_method(m).hyperparameters}]
        words += [
            w for m in trained for w in (("--set", f"{m}.epochs=1") if command == "compare" else ("--epochs", "1"))
        ]
    return words


def run(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a line as a shell would: `echo TEXT | bequest …`, `bequest …`, `pip install …`, `make …`."""
    before, _, last = command.rpartition(" | ")
    for found, replacement in REPLACED.items():
        last = last.replace(found, replacement)
    words = shlex.split(last, comments=True)
    if words[0] == "pip":
        check_install(last)
        return
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), command
        return
    assert words[0] == "bequest", f"{command}: expected bequest, pip install or make"
    if before:
        assert before.startswith("echo "), command
        monkeypatch.setattr(sys, "stdin", io.StringIO(shlex.split(before)[1] + "\n"))
    for out in re.findall(r"--out (\S+)|bequest export \S+ (\S+)", last):
        remove(Path("".join(out)))  # prepared for other blocks
    status = command_line.main(shorter(words[1:]))
    assert status == 0, f"{command}\n{capsys.readouterr().err}"


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_install(command: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"bequest\[([^\]]*)\]", command):
        assert set(named.split(",")) <= extras.keys(), command


def test_there_is_what_is_tested():
    assert {b.language for b in BLOCKS} <= LANGUAGES
    assert len(PROGRAMS) >= 6
    assert len([c for b in SHELL for c in b.commands]) >= 45
    told = {(b.page, b.reason.removeprefix("run by ")) for b in BLOCKS if b.reason.startswith("run by")}
    for page, test in [*ELSEWHERE.items(), *told]:
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), test
    texts = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert all(replaced in texts for replaced in [*REPLACED, *SHORTER_PROGRAMS])
    assert not re.search(r"^    .*\bbequest\.\w+\(", FENCED.sub("", texts), re.M), "a program that is not in a fence"


def test_what_is_not_run_says_why():
    for reason in {b.reason for b in NOT_RUN} - {"not run: needs the internet"}:
        [test] = re.findall(r"tests/\S+\.py", reason)
        assert (ROOT / test).is_file(), f"{reason}: that test is to do the same"
    pages = ["docs/adapters.md", "docs/scale.md", "docs/sources.md", "docs/weight_selection.md"]
    assert sorted({b.page for b in NOT_RUN}) == pages
    for block in NOT_RUN:
        for command in block.commands:
            words = shlex.split(command.rpartition(" | ")[2])
            if words[0] == "bequest":
                assert callable(command_line._parser().parse_args(words[1:]).command), command


@pytest.mark.parametrize("block", [b for b in SHELL if not b.reason], ids=str)
def test_commands(
    block: Block, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in block.commands:
        for part in command.split(" && "):
            run(part, capsys, monkeypatch)


@pytest.mark.parametrize("block", [b for b in PROGRAMS if not b.reason], ids=str)
def test_programs(block: Block, place: Path) -> None:
    text = block.text
    for found, replacement in SHORTER_PROGRAMS.items():
        text = text.replace(found, replacement)
    for out in re.findall(r'out="([^"]+)"', text):
        shutil.rmtree(out, ignore_errors=True)
    names: dict[str, Any] = {"__name__": "program"}
    if not re.search(r"^(?:from \S+ )?import ", text, re.M):
        exec(compile(PROGRAM, "PROGRAM", "exec"), names)
    exec(compile(text, str(block), "exec"), names)
