"""The committed pages are what the generator makes, so that they cannot rot."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load(ROOT / "docs" / "generate.py")


def test_committed_pages_are_those_that_are_generated(generate: ModuleType):
    committed = {name: path.read_text(encoding="utf-8") for name, path in generate.made_before().items()}
    made = generate.pages()
    stale = sorted(n for n in committed.keys() | made.keys() if committed.get(n) != made.get(n))
    assert not stale, f"docs/ is not up to date ({', '.join(stale)}): run `make docs` and commit."


def test_every_hyperparameter_is_explained(generate: ModuleType):
    for name, text in generate.pages().items():
        assert not re.search(r"^\| `--.*\|  \|$", text, re.M), f"{name}: a hyperparameter without a meaning"


def test_links_in_the_docs_lead_somewhere():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_sections_become_headings(generate: ModuleType):
    doc = "What.\n\nDeviations:\n    The scale\n    is 1.\n\n    * one\n\n    y = W x\n\nAttributes:\n    a: b."
    assert generate.markdown(doc, skip=("Attributes",)) == (
        "What.\n\n### Deviations\n\nThe scale\nis 1.\n\n* one\n\ny = W x"
    )
    assert generate.markdown("What:\n\n    y = W x\n") == "What:\n\n    y = W x"


def test_papers_are_linked_once(generate: ModuleType):
    linked = "[arXiv:2106.09685](https://arxiv.org/abs/2106.09685)"
    assert generate.markdown("Hu, arXiv:2106.09685.") == f"Hu, {linked}."
    assert generate.markdown(linked) == linked


def test_the_guides_example_is_the_methods_file():
    guide = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S)
    assert code == (ROOT / "src" / "bequest" / "methods" / "bitfit.py").read_text(encoding="utf-8")
