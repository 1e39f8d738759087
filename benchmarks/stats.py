"""What a row of measurements says: middle, spread, ratio and trend. Pure.

Times come from a machine that does other things too, so the middle is a median, the spread the
10th and the 90th percentile, and two ways to do the same are measured by turns and compared pair
by pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

LOW, HIGH = 0.10, 0.90


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the 10th and 90th percentile around it, of `n` measurements."""

    middle: float
    low: float
    high: float
    n: int


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share (0 to 1) of the values lies, between two of them.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> Spread:
    """Return the middle of the values and how far they spread."""
    return Spread(median(values), quantile(values, LOW), quantile(values, HIGH), len(values))


def ratio(ours: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the ratio of two medians, with the spread of the pairs' own ratios.

    Raises:
        ValueError: if the rows are not measured by turns: they must be of one length.
    """
    if len(ours) != len(others):
        raise ValueError(f"{len(ours)} measurements cannot be paired with {len(others)}")
    each = [a / b for a, b in zip(ours, others, strict=True)]
    return Spread(
        median(ours) / median(others), quantile(each, LOW), quantile(each, HIGH), len(each)
    )


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return by how much y grows for each x: the least squares line.

    Raises:
        ValueError: if there is no line through the points.
    """
    if len(xs) != len(ys) or len(set(xs)) < 2:
        raise ValueError("a trend needs two points at least")
    middle_x, middle_y = fmean(xs), fmean(ys)
    above = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - middle_x) ** 2 for x in xs)


def same_prefix(before: bytes, after: bytes) -> int:
    """Return how many bytes `after` begins with that `before` begins with, too."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        if before[:middle] == after[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
