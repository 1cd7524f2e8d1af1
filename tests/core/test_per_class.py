from __future__ import annotations

from bequest.core.per_class import class_scores


def test_a_class_that_nothing_was_taken_for_has_no_precision() -> None:
    assert class_scores(0, 3, 0) == (None, 0.0, 0.0)
    assert class_scores(0, 0, 0) == (None, None, None)
    assert class_scores(3, 4, 5) == (3 / 5, 3 / 4, 2 * 3 / 9)
