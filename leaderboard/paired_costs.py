"""What two values of an axis cost, as ratios over pairs of the same dataset and seed."""

import numpy as np
from pandas import DataFrame

from leaderboard.formatting import format_count

COSTS_OF_AXIS = {"attack": ("craft_s", "craft_host_mb", "craft_device_mb")}
"""Axis → columns of the frame that hold what its parts cost."""

TRAINING_COSTS = ("train_s", "train_host_mb", "train_device_mb")
"""Columns of the costs of all other axes."""


def compare_costs(frame: DataFrame, axis: str, cells: DataFrame) -> DataFrame:
    """Return what the parts of an axis cost, as ratios A / B.

    Args:
        frame: from `leaderboard.frame.to_frame`.
        axis: the axis of both sides.
        cells: a row per pair of cells with ``key_a``, ``key_b``, ``dataset`` and ``seed``.

    Returns:
        ``cost`` (column of the frame), ``ratio`` (geometric mean over the pairs of means of the same dataset
        and seed, NaN if not measured) and ``pairs``.
    """
    names = COSTS_OF_AXIS.get(axis, TRAINING_COSTS)
    measured = frame.drop_duplicates("key").set_index("key")[list(names)]
    groups = [other for other in ("dataset", "seed") if other != axis]
    sides = [
        measured.loc[cells[key]].set_axis(cells.index).groupby([cells[group] for group in groups]).mean()
        for key in ("key_a", "key_b")
    ]
    measured_on_both = (sides[0] > 0) & (sides[1] > 0)
    ratios = (sides[0] / sides[1])[measured_on_both]
    means = [float(np.exp(np.log(ratios[name]).mean())) for name in names]
    return DataFrame({"cost": names, "ratio": means, "pairs": [ratios[name].count() for name in names]})


def render_cost_ratios(costs: DataFrame, a: str, b: str) -> str:
    """Return the ratios of `compare_costs` in a sentence of markdown, empty if nothing was measured.

    Args:
        costs: the ratios.
        a: the escaped label of one side.
        b: that of the other.
    """
    names = {"s": "time", "host_mb": "peak host memory", "device_mb": "peak device memory"}
    measured = costs[costs["pairs"] > 0]
    if not len(measured):
        return ""
    texts = []
    for row in measured.to_dict("records"):
        phase, measure = str(row["cost"]).split("_", 1)
        texts.append(f"{phase} {names[measure]} {row['ratio']:.2f}")
    pairs = format_count(int(measured["pairs"].max()), "pair")
    return (
        f"Costs of {a} as a multiple of those of {b} (geometric mean over {pairs} of dataset and seed): "
        f"{', '.join(texts)}."
    )
