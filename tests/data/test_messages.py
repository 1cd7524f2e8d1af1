"""`bequest.data.messages`."""

from __future__ import annotations

from bequest.data.messages import counted, listed, tally


def test_listed_cuts_after_the_most() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"


def test_counted_and_tally() -> None:
    assert (counted(1, "file"), counted(0, "file"), counted(2000, "file")) == (
        "1 file",
        "0 files",
        "2,000 files",
    )
    assert counted(2, "copy", "copies") == "2 copies"
    assert tally(["a", "b", "b"]) == "2 b, 1 a"
