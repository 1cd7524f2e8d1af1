"""Names that others gave: whether they stay in their folder, and how they are written down."""

from __future__ import annotations

import re


def leads_out(name: str) -> bool:
    """Whether a file's name may lead out of the folder that it is taken from: absolute, or with `..` or a colon."""
    parts = re.split(r"[/\\]", name)
    return not parts[0] or ".." in parts or ":" in name


def is_text(name: str) -> bool:
    """Whether a name is whole characters; of a file's name in another encoding Python keeps bytes as half ones."""
    return shown(name) == name


def shown(name: object) -> str:
    """A name as it can be written into any file: half characters as backslash escapes."""
    return str(name).encode(errors="backslashreplace").decode()
