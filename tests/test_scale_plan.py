"""The plan on paper: the page has what the program prints, and the figures are in proportion."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_plan", ROOT / "docs/scale_plan.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_plan"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_has_what_the_program_prints(made: ModuleType):
    page = made.PAGE.read_text(encoding="utf-8")
    now = made.filled(page, made.plan(made.Assumed(), made.measured()))
    assert page == now, "docs/scale.md is not up to date: run `python docs/scale_plan.py` and commit."


def test_a_pass_is_images_over_their_rate(made: ModuleType):
    assumed, measured = made.Assumed(), made.measured()
    here, ray, *_ = made.rows(assumed, measured)
    assert here.core_hours == pytest.approx(assumed.images / measured.images_s / 3600)
    assert here.hours == pytest.approx(here.core_hours / assumed.machine_cores)
    assert ray.hours == pytest.approx(here.core_hours / assumed.cores + measured.start_s / 3600)
    assert here.stored_bytes == pytest.approx(assumed.images * measured.record_bytes)
    # Twice the images, twice of everything.
    twice = made.rows(replace(assumed, images=2 * assumed.images), measured)[0]
    for name in ("core_hours", "hours", "read_bytes", "stored_bytes", "price"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(here, name))


def test_trials_end_as_fast_as_they_are_written_where_the_two_cross(made: ModuleType):
    assumed, measured = made.Assumed(), made.measured()
    written = measured.body_bytes / assumed.disk_mb_s / 1e6
    assert written == pytest.approx(measured.trial_s / made.crossing(assumed, measured))
