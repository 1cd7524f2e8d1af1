from __future__ import annotations

import pytest
from scoring import problem

from bequest.scores.design import Array


@pytest.fixture(params=[(60, 8), (30, 50)], ids=["N > D", "N < D"])
def data(request: pytest.FixtureRequest) -> tuple[Array, Array]:
    return problem(*request.param)
