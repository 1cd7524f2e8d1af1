"""Where a hyperparameter is looked for when it is tuned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """A range to tune a hyperparameter in; it stands beside the field's type: `rank: Annotated[int, Search(2, 64)]`.

    Attributes:
        low: Least value.
        high: Largest value.
        log: Look evenly in the logarithm.
        times_default: The range is in units of the value that the hyperparameter has where it is not tuned.
    """

    low: float
    high: float
    log: bool = False
    times_default: bool = False

    def over(self, default: float | None) -> tuple[float, float] | None:
        """The range for a default value; None where that gives none. It holds the default, where there is one."""
        if default is None or (self.times_default and not default):
            return None
        factor = default if self.times_default else 1
        return min(self.low * factor, default), max(self.high * factor, default)
