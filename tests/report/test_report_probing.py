"""What a probe's page and sentences say, against the numbers that they are made of."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bequest.core.probing import LayerRow, ProbeRecord
from bequest.report import probing


def layer(source: str, name: str, depth: float, linear: float | None, logme: float, leep: float | None = None):
    scores = {"leep": leep, "logme": logme, "ridge_loo": linear}
    return LayerRow(source, name, depth, 8, linear, None if linear is None else 0.3, 0.1, scores)


@pytest.fixture
def record() -> ProbeRecord:
    rows = [
        layer("bert", "encoder.layer.1", 0.5, 0.95, 0.2),
        layer("bert", "embedding", 1.0, 0.9, 0.4, -0.7),
        layer("<small>", "embedding", 1.0, 0.65, 0.1, -0.9),
        layer("bert", "encoder.layer.0", 0.25, 0.5, 0.3),
    ]
    return ProbeRecord(
        rows=rows,
        ranked_by="linear_probe",
        metric="accuracy",
        names=["linear_probe", "leep", "logme", "ridge_loo"],
        agreement=[[1.0, 1.0, -0.2, 1.0], [1.0, 1.0, 1.0, None], [-0.2, 1.0, 1.0, 0.0], [1.0, None, 0.0, 1.0]],
        task={"name": "reviews", "modality": "text", "classes": ["a", "b"], "notes": ["2 duplicates were dropped."]},
        sources=[{"name": "bert", "width": 8}, {"name": "<small>", "width": 8}],
        protocol={"train_size": 50, "train": 40, "validation": 10, "test": 25, "seed": 0},
        environment={"device": "cpu"},
        passes={"bert": {"asked": 50, "computed": 50}, "<small>": {"asked": 50, "computed": 0}},
        left_out={"bert": {"encoder.layer.2": "what the embedding is"}},
    )


def test_first_sentence_names_the_best_and_its_embedding(record: ProbeRecord) -> None:
    assert probing.sentences(record)[0] == (
        "Layer encoder.layer.1 of bert comes first by the linear probe’s accuracy on 10 held-out labels: 95.0 %, "
        "against 90.0 % for that source’s embedding."
    )
    first, second, *rest = record.rows
    swapped = replace(record, rows=[second, first, *rest])
    assert probing.sentences(swapped)[0] == (
        "The embedding of bert comes first by the linear probe’s accuracy on 10 held-out labels: 90.0 %."
    )
    level = replace(record, rows=[first, replace(second, linear=0.95), *rest])
    assert probing.sentences(level)[0].endswith("95.0 %, which that source’s embedding reaches too.")


def test_uncertainty_is_that_of_agresti_and_coull(record: ProbeRecord) -> None:
    share = (9.5 + 2) / 14
    sem = math.sqrt(share * (1 - share) / 14)
    assert 0.05 < sem < 0.3  # 0.90 is as near as that, 0.65 is not
    assert probing.sentences(record)[1] == (
        f"With 10 held-out labels, the standard error is {100 * sem:.1f} points, and 1 other layer is no further away "
        "than that."
    )
    alone = replace(record, rows=[record.rows[0], *record.rows[2:]])
    assert probing.sentences(alone)[1].endswith("points: no other layer is so near.")
    assert len(probing.sentences(replace(record, metric="R²"))) == len(probing.sentences(record)) - 1


def test_trust_names_the_scores_that_agree_least_and_most(record: ProbeRecord) -> None:
    text = probing.sentences(record)[2]
    assert text.startswith("No single score is reliable.")
    assert "from -0.20 (logme) to 1.00 (leep), by Kendall’s τ" in text
    assert probing.sentences(record)[3] == "Left out of bert: encoder.layer.2 (what the embedding is)."


def test_without_a_linear_probe(record: ProbeRecord) -> None:
    rows = [replace(row, linear=None, linear_loss=None) for row in record.rows]
    names, agreement = record.names[1:], [line[1:] for line in record.agreement[1:]]
    found = replace(record, rows=rows, ranked_by="ridge_loo", names=names, agreement=agreement)
    assert "comes first by ridge_loo, as no linear probe was fitted: 95.0 %" in probing.sentences(found)[0]
    page = probing.render(found)
    assert "A linear probe of each layer" not in page and "linear probe there" not in page


def test_names_lose_what_all_layers_of_a_source_share(record: ProbeRecord) -> None:
    short = probing.short_names(record)
    assert short["bert", "encoder.layer.1"] == "layer.1", "a number alone is no name"
    assert short["bert", "embedding"] == "embedding"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.outside += [v for n, v in attrs if n in ("src", "href") and v and not v.startswith(("#", "data:"))]


def test_page_shows_every_layer_and_stands_alone(record: ProbeRecord, tmp_path: Path) -> None:
    page = probing.render(record)
    assert page == probing.render(record)
    plain = page.replace("<wbr>", "")
    for row in record.rows:
        assert plain.count(f"<b>{row.layer}</b>") >= 1
    assert "<small>" not in re.sub(r"<h1>.*?</h1>", "", page), "names are escaped"
    assert "&lt;small&gt;" in page
    tags = _Tags()
    tags.feed(page)
    assert len(tags.ids) == len(set(tags.ids)), "drawings do not share ids"
    assert not tags.outside
    assert "2 duplicates were dropped." in page and "the 25 of the test part are left alone" in page
    probing.write(record, tmp_path / "made" / "probe.html")
    assert (tmp_path / "made" / "probe.html").read_text(encoding="utf-8") == page


def test_page_of_one_layer_alone(record: ProbeRecord) -> None:
    alone = replace(record, rows=record.rows[1:2], names=[], agreement=[])
    page = probing.render(alone)
    assert "What each measure would choose" not in page and "The scores over depth" not in page


def test_choices_tell_what_they_are_worth(record: ProbeRecord) -> None:
    found = {each["name"]: each for each in probing._choices(record)}  # pyright: ignore[reportPrivateUsage]
    assert (found["logme"]["layer"], found["logme"]["linear"]) == ("embedding", "90.0 %")
    assert (found["ridge_loo"]["layer"], found["ridge_loo"]["linear"]) == ("encoder.layer.1", "95.0 %")
