"""Bad input and accidents as a user meets them at the command line: a clear error, status not 0, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from faulting import fault
from killing import outcome
from PIL import Image

from bequest.cli.main import main

PHOTOS = ["--source", "efficientnet_lite0", "--image-size", "64", "--methods", "linear_probe", "--seeds", "1"]
QUICK = ["--seeds", "1", "--methods", "linear_probe,full", "--set", "full.epochs=2", "--max-tokens", "16"]


@pytest.fixture(scope="module")
def given() -> Iterator[Path]:
    """A folder that everybody may read, with a table of texts and a tiny model for them."""
    import torch
    from transformers import BertConfig, BertModel

    folder = Path(tempfile.mkdtemp(prefix="bequest-given-"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=40, pad_token_id=0, **sizes)).save_pretrained(
        folder / "bert"
    )
    (folder / "bert" / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    task = tiny.text_task(150)
    lines = [f"{task.samples[i]},{task.classes[task.labels[i]]}\n" for i in range(len(task.labels))]
    (folder / "texts.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def finished(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two methods."""
    folder = tmp_path_factory.mktemp("finished")
    words = [*QUICK, "--source", f"hf:{given / 'bert'}", "--out", str(folder / "run"), "--cache", str(folder / "cache")]
    assert main(["compare", str(given / "texts.csv"), *words, "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def told(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that fails and gives what it said; data are the texts, the source the tiny model unless given."""

    def run(*words: Any, command: str = "compare", data: Path | None = None, status: int = 1) -> str:
        given_words = [str(word) for word in words]
        for flag, value in (
            ("--source", f"hf:{given / 'bert'}"),
            ("--cache", tmp_path / "cache"),
            ("--out", tmp_path / "run"),
        ):
            given_words += [] if flag in given_words else [flag, str(value)]
        capsys.readouterr()
        assert main([command, str(data or given / "texts.csv"), *given_words]) == status
        return capsys.readouterr().err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images each of two classes."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.jpg")
    return tmp_path / "photos"


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_images_that_are_cut_off_are_all_named_when_one_is_met(photos: Path, told: Callable[..., str]) -> None:
    bad = [photos / "cat" / "3.jpg", photos / "dog" / "4.jpg", photos / "dog" / "5.jpg"]
    for file in bad:
        cut_off(file)
    text = told(*PHOTOS, data=photos)
    assert all(str(file) in text for file in bad)
    assert "truncated" in text and "2 others of 20 samples" in text and "--skip-bad" in text
    out = photos.parent / "without"
    assert "Left out 3 unreadable images" in told(*PHOTOS, "--skip-bad", "--out", out, data=photos, status=0)


def test_files_that_are_no_images_are_all_named(photos: Path, told: Callable[..., str]) -> None:
    (photos / "cat" / "3.jpg").write_text("not an image")
    (photos / "dog" / "x.png").touch()
    text = told(*PHOTOS, data=photos)
    assert "2 files of 21 cannot be read as images" in text and "3.jpg" in text and "x.png (empty)" in text
    assert "--skip-bad" in text


def test_classes_without_enough(photos: Path, told: Callable[..., str], given: Path, tmp_path: Path) -> None:
    for name in ("owl", "yak"):
        (photos / name).mkdir()
    text = told(*PHOTOS, data=photos)
    assert "2 class folders without images" in text and str(photos / "owl") in text and str(photos / "yak") in text
    one = tmp_path / "one.csv"
    one.write_text("text,label\nball goal,sport\nteam ball,sport\nmatch,sport\n")
    assert "have one label, 'sport'; expected two classes or more" in told(data=one)
    lines = (given / "texts.csv").read_text().splitlines(keepends=True)
    two = tmp_path / "two.csv"
    two.write_text("".join(lines) + "ball x,rare\nball y,rare\n")
    assert "Too few samples in: 'rare' (2); expected three or more a class" in told(data=two)


def test_fewer_labels_of_a_class_than_folds(told: Callable[..., str]) -> None:
    words = ["--methods", "linear_probe", "--seeds", "3", "--train-size", "6", "--set", "linear_probe.folds=5"]
    assert told(*words, status=0).count("validation") == 3


NAMES: list[tuple[list[str], list[str]]] = [
    (["--source", "minilm_l7"], ["There is no source 'minilm_l7'. Did you mean 'minilm_l6'"]),
    (["--methods", "linear_prob,loar"], ["Did you mean 'linear_probe'?", "Did you mean 'lora' or"]),
    (
        [
            "--set",
            "full.epoch=3",
            "--set",
            "full.patienc=1",
            "--set",
            "lora.rnk=3",
            "--set",
            "freeze.from_depth=layer.9",
        ],
        ["'epoch' (Did you mean 'epochs'?), 'patienc' (", "'lora' has no hyperparameter 'rnk'", "no layer 'layer.9'"],
    ),
    (["--text-column", "txt", "--label-column", "lable"], ["Did you mean 'text'?", "Did you mean 'label'?"]),
    (["--cut-at", "layer.7"], ["There is no layer 'layer.7'. Did you mean 'layer.", "`bequest ls layers SOURCE`"]),
    (["--cut-at", "qqq"], ["There is no layer 'qqq'. The steps of depth are: "]),
    (["--source-head", "fc"], ["This text model has no head of its own", "Leave --source-head out"]),
    (["--source", "efficientnet_lite0", "--source-head", "fc"], ["--source-head does not apply"]),
    (["--track", "tensorbord"], ["--track 'tensorbord' is unknown", "Did you mean 'tensorboard'?"]),
]


@pytest.mark.parametrize(("words", "expected"), NAMES, ids=[" ".join(words) for words, _ in NAMES])
def test_names_that_are_not_there(
    told: Callable[..., str], tmp_path: Path, words: list[str], expected: list[str]
) -> None:
    text = told(*words)
    assert [part for part in expected if part not in text] == []
    assert len(text) < 1000
    assert not (tmp_path / "run").exists()


def test_values_of_the_wrong_kind_are_told_together(told: Callable[..., str]) -> None:
    text = told("--method", "lora", "--rank", "four", "--epochs", "x", command="adapt")
    assert "--rank of 'lora' is 'four'" in text and "--epochs of 'lora' is 'x'" in text


def test_options_that_are_not_there(told: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    text = told("--method", "lora", "--rnk", "3", "--trian-size=9", command="adapt", status=2)
    assert "There is no option --rnk. Did you mean '--rank'" in text
    assert "There is no option --trian-size. Did you mean '--train-size'" in text
    assert "Too many words: again" in told("--seeds", "1", "again", status=2)
    with pytest.raises(SystemExit):
        told("--test-size", "half")
    assert "argument --test-size: 'half', expected a whole number, or a fraction" in capsys.readouterr().err


def test_text_in_another_encoding(told: Callable[..., str], tmp_path: Path) -> None:
    table = tmp_path / "latin.csv"
    table.write_bytes("text,label\ncafé,a\nthé,b\n".encode("latin-1"))
    text = told(data=table)
    assert "latin.csv (byte 14)" in text and "--encoding latin-1" in text


def test_labels_that_differ_in_case_are_warned_of(told: Callable[..., str], given: Path, tmp_path: Path) -> None:
    lines = (given / "texts.csv").read_text().splitlines(keepends=True)
    table = tmp_path / "case.csv"
    table.write_text("".join(line.replace(",sport", ",Sport") if i % 2 else line for i, line in enumerate(lines)))
    text = told("--methods", "linear_probe", "--seeds", "1", data=table, status=0)
    assert "Warning: labels that differ only in case or surrounding space are kept apart: 'Sport' and 'sport'" in text


def test_folder_of_another_task(told: Callable[..., str], given: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text((given / "texts.csv").read_text() + "ball ball ball ball,sport\n")
    before = outcome(finished)
    text = told(*QUICK, "--out", finished, data=other)
    assert f"{finished} holds another run of {given / 'texts.csv'} (task: " in text and "Choose another --out" in text
    assert outcome(finished) == before


@fault(
    "two processes in one run's folder",
    happens="the second is refused, where the file system has locks: another process is at work there",
    outcome="the first goes on, and nothing of it is touched",
)
def test_folder_where_another_process_is_at_work(told: Callable[..., str], finished: Path) -> None:
    import fcntl

    with (finished / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = told(*QUICK, "--out", finished)
    assert f"Another process is at work in {finished}" in text and "Wait for it" in text
    assert told(*QUICK, "--out", finished, status=0)


@fault(
    "the loss becomes NaN or infinite",
    happens="the trial ends with an error in its row; the best weights so far are kept and named",
    outcome="all other trials finish, and the row is shown without a score",
)
def test_a_loss_that_is_no_number(told: Callable[..., str], tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    rates = ["--set", "full.learning_rate=1e30", "--set", "full.head_learning_rate=1e30"]
    text = told("--methods", "full,linear_probe", "--seeds", "2", *rates, status=0)
    assert text.count("Lower --learning-rate") == 2 and text.count("linear_probe, seed") == 2
    rows = {row["method"]: row for row in json.loads((tmp_path / "run" / "leaderboard.json").read_text())["rows"]}
    assert rows["full"]["validation"] is None and len(rows["full"]["errors"]) == 2
    for seed, error in enumerate(rows["full"]["errors"]):
        kept = Path("trials") / "full" / f"seed{seed}" / "last_good.safetensors"
        assert f"The weights kept: {kept}" in error
        weights = load_file(tmp_path / "run" / kept)
        assert weights and all(np.isfinite(values).all() for values in weights.values())
    alone = told("--method", "full", "--learning-rate", "1e30", "--out", tmp_path / "alone", command="adapt")
    assert "No trial ended with a result:\nfull, seed 0: The training loss became" in alone


@fault(
    "a write fails in the store or in a trial, as on a full disk",
    happens="an error that names the file, what is needed and what is free",
    outcome="finished trials are kept; the same command finishes when there is room",
)
def test_a_full_disk(told: Callable[..., str], tmp_path: Path, finished: Path) -> None:
    """Files may not grow beyond a limit: what a full disk does to a write, at a place of our choice."""
    with files_up_to(2000):
        text = told(*QUICK)
    assert f"Cannot write to the store in {tmp_path / 'cache'} (File too large)" in text
    assert "`bequest cache clear`" in text and "name another folder: --cache" in text
    told("--methods", "linear_probe", "--seeds", "1", "--max-tokens", "16", "--out", tmp_path / "first", status=0)
    with files_up_to(16_000):
        text = told(*QUICK)
    assert f"{tmp_path}/run/trials/full/seed0/trained.safetensors (File too large)" in text
    assert "choose another --out. Finished trials are kept" in text
    assert told(*QUICK, status=0)
    assert outcome(tmp_path / "run").keys() == outcome(finished).keys(), "nothing of what failed is left"


@fault(
    "the run's folder, the cache or the data may not be read or written",
    happens="an error that names each file, and the flag by which to name another",
    outcome="nothing is changed",
)
def test_no_permission(told: Callable[..., str], given: Path, finished: Path, photos: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="bequest-closed-"))
    shutil.copytree(finished, place / "run")
    shutil.copytree(photos, place / "photos")
    shutil.copy(given / "texts.csv", place / "secret.csv")
    for folder in (place, *place.rglob("*")):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    closed = [place / "secret.csv", place / "photos" / "cat" / "1.jpg", place / "photos" / "dog" / "2.jpg"]
    for file in closed:
        file.chmod(0)
    told(*PHOTOS, data=photos, status=0)  # all that a run imports is imported
    out = Path(tempfile.mkdtemp(prefix="bequest-open-"))
    out.chmod(0o777)
    try:
        with unprivileged():
            assert f"Cannot read or write {place / 'run' / '.lock'} (Permission" in told(*QUICK, "--out", place / "run")
            assert f"{place / 'new'} (Permission denied)" in told(*QUICK, "--out", place / "new")
            text = told(*QUICK, "--out", out / "run", "--cache", place / "cache")
            assert f"{place / 'cache'} (Permission denied)" in text and "--cache" in text
            text = told(*QUICK, data=closed[0])
            assert f"Cannot read {closed[0]} (Permission denied)" in text and "Check its permissions" in text
            text = told(*PHOTOS, "--out", out / "photos", data=place / "photos")
            assert all(f"{file} (Permission denied)" in text for file in closed[1:])
        for folder in ("photos/cat", "photos"):
            (place / folder).chmod(0)
            with unprivileged():
                text = told(*PHOTOS, "--out", out / "photos", data=place / "photos")
            assert f"{place / 'photos'}" in text and "Permission denied" in text and "ermissions" in text
    finally:
        for folder in (place, place / "run", place / "photos", place / "photos" / "cat"):
            folder.chmod(0o755)
        shutil.rmtree(place)
        shutil.rmtree(out)


def truncated(file: str) -> Callable[[Path], Any]:
    return lambda run: cut_off(run / file)


def written(file: str, content: str) -> Callable[[Path], Any]:
    return lambda run: (run / file).write_text(content)


def better(run: Path) -> None:
    file = run / "trials" / "full" / "seed0" / "record.json"
    content = json.loads(file.read_text())
    content["record"]["validation"] = 1.0
    file.write_text(json.dumps(content))


def begun(run: Path) -> None:
    (run / "trials" / "full" / "seed0" / "record.json").unlink()
    (run / "trials" / "full" / "seed0" / "stage1.ckpt").write_bytes(b"abc")


FULL, PROBE = "trials/full/seed0", "trials/linear_probe/seed0"
NAMED: dict[str, tuple[list[Callable[[Path], Any]], list[str]]] = {
    "records broken": (
        [truncated(f"{FULL}/record.json"), written(f"{PROBE}/record.json", "[]")],
        [f"{FULL}/record.json was changed", f"{PROBE}/record.json was changed", "only this trial is repeated"],
    ),
    "a score made better": ([better], [f"{FULL}/record.json was changed by hand or is damaged (its digest"]),
    "weights cut off": (
        [truncated(f"{FULL}/trained.safetensors"), truncated(f"{PROBE}/trained.safetensors")],
        [f"{FULL}/trained.safetensors was changed", f"{PROBE}/trained.safetensors was changed"],
    ),
    "weights of another": (
        [lambda run: shutil.copy(run / FULL / "trained.safetensors", run / PROBE / "trained.safetensors")],
        [f"{PROBE}/trained.safetensors was changed by hand or is damaged (its bytes are others)"],
    ),
    "settings broken": ([written("run.json", "{")], ["run.json was changed by hand", "Restore it, or choose another"]),
    "settings gone": ([lambda run: (run / "run.json").unlink()], ["holds no run of bequest (run.json is missing)"]),
    "a checkpoint damaged": ([begun], ["The checkpoint ", f"{FULL}/stage1.ckpt is damaged", "Remove it and run again"]),
}


@fault(
    "a record, weights, settings or a checkpoint were cut short or changed by hand",
    happens="digests do not fit: all such files are named before anything runs",
    outcome="no changed result is ever ranked; one trial is repeated once its folder is removed",
)
@pytest.mark.parametrize(("edits", "expected"), NAMED.values(), ids=NAMED)
def test_what_was_changed_by_hand_is_named(
    edits: list[Any], expected: list[str], told: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for edit in edits:
        edit(tmp_path / "run")
    text = told(*QUICK)
    assert [part for part in expected if part not in text] == []


@fault(
    "the leaderboard, the report, the best model or a trial's weights are gone or damaged",
    happens="they are made again from the records",
    outcome="the files of a run that nothing disturbed",
)
def test_what_can_be_made_again_is_made_again(told: Callable[..., str], finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "leaderboard.json").write_text("{")
    (run / FULL / "trained.safetensors").unlink()
    shutil.rmtree(run / "best")
    (run / "report.html").unlink()
    (run / ".best.0123abcd.tmp").touch()
    shutil.copytree(finished.parent / "cache", tmp_path / "cache")
    told(*QUICK, status=0)
    found, expected = outcome(run), outcome(finished)
    assert [name for name in expected if name.endswith("safetensors") and found[name] != expected[name]] == []
    assert found.keys() == expected.keys()


def test_other_commands_on_a_damaged_folder(
    finished: Path, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(words: list[str], edit: Callable[[Path], Any]) -> str:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run)
        edit(run)
        capsys.readouterr()
        assert main([words[0], str(run), *words[1:]]) == 1
        return capsys.readouterr().err

    replay, predict = ["replay", "--out", str(tmp_path / "again")], ["predict", str(given / "texts.csv")]
    assert "leaderboard.json: This is not a leaderboard" in told(replay, written("leaderboard.json", "{}"))
    assert "leaderboard.json is missing" in told(replay, lambda run: (run / "leaderboard.json").unlink())
    assert "run.json was changed by hand" in told(replay, written("run.json", '{"settings": {}}'))
    assert "best/model.safetensors is damaged" in told(predict, truncated("best/model.safetensors"))
    assert "best is damaged" in told(predict, written("best/model.json", "[]"))
    assert "tokenizer.json is damaged" in told(predict, truncated("best/tokenizer.json"))
    assert "tokenizer.json is missing" in told(predict, lambda run: (run / "best" / "tokenizer.json").unlink())
    assert "There is no model in" in told(predict, lambda run: shutil.rmtree(run / "best"))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may do anything; as somebody else for a while it may not."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_lack_of_memory_anywhere_is_no_traceback(
    told: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bequest.api import comparisons

    def lacking(*_: Any, **__: Any) -> Any:
        return bytes(10**15)

    monkeypatch.setattr(comparisons, "run_comparison", lacking)
    said = told("--methods", "linear_probe", "--out", tmp_path / "run")
    assert "error: Memory did not suffice (none is left); expected room for" in said
