"""What answers `--help` and lists methods must not wait for heavy packages."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import bequest.methods

HEAVY = {"accelerate", "matplotlib", "scipy", "sklearn", "timm", "torch", "torchvision", "transformers"}
METHODS = [f"bequest.methods.{m.name}" for m in pkgutil.iter_modules(bequest.methods.__path__)]


@pytest.mark.parametrize("module", ["bequest", "bequest.cli.main", "bequest.core.results", *METHODS])
def test_import_is_light(module: str):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"import {module} also imports {done.stdout.strip()}; import it where it is used"
