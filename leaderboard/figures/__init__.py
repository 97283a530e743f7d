"""Figures of a board. A kind of figure is one module here and one line in `KINDS`.

The files depend on the records only, not on their order, and are the same bytes every time.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, unknown_name_error
from bench.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leaderboard.figures.figure_data import FigureData
    from leaderboard.summary import RankedBoard


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Attributes:
        drawn_by: ``module:function`` in this package; the function gets a `FigureData`, and the axis if there
            is a figure for every one; it returns a figure, or None if there is nothing to draw.
        shows: what is in it, for the help.
        needs: what has to be among the records.
        run_only: what it needs from the folder of a run that an archive does not have; empty if nothing.
        by_axis: whether there is one for every axis.
    """

    drawn_by: str
    shows: str
    needs: str
    run_only: str = ""
    by_axis: bool = False


KINDS: Mapping[str, FigureKind] = {
    "ranking": FigureKind(
        "ranking:draw_ranking", "protection of every attack, with its interval", "an attack with a protection"
    ),
    "heatmap": FigureKind(
        "heatmap:draw_heatmap", "protection, attacks by another axis", "two values of the axis", by_axis=True
    ),
    "curves": FigureKind(
        "curves:draw_curves", "learning curves, clean and poisoned", "an attack", "learning curves"
    ),
    "cost": FigureKind(
        "cost:draw_costs", "protection by the cost of a poison; seconds and memory", "an attack with costs"
    ),
    "tasks": FigureKind("tasks:draw_tasks", "protection of every task", "a dataset with two tasks"),
    "images": FigureKind(
        "images:draw_images", "clean image, amplified δ, released image", "a poison with images", "images"
    ),
    "budgets": FigureKind(
        "budgets:draw_budgets", "protection by budget", "an attack that was run at several budgets"
    ),
}
"""Name → kind of figure."""

FORMATS = ("png", "svg", "pdf")
"""Formats of a figure, which are also the endings of its file."""

WIDTH = 7.0
"""Usual width of a figure, in inches: two columns of a paper."""


def draw_figures(
    records: Iterable[Record], run: Path | None = None, board: "RankedBoard | None" = None
) -> dict[str, bytes]:
    """Return every figure for which there are data: file name → PNG.

    Args:
        records: with their learning curves, in any order.
        run: the folder of the run, which has images of its poisons; None: there are none.
        board: the same records ranked, if they are.
    """
    from leaderboard.figures.figure_data import collect_figure_data
    from leaderboard.figures.style import encode_figure, figure_style
    from leaderboard.rows import varying_axes

    data, files = collect_figure_data(records, run, WIDTH, board), {}
    with figure_style():
        for name, kind in KINDS.items():
            for axis in varying_axes(data.frame) if kind.by_axis else [""]:
                figure = _draw(kind, data, axis)
                if figure is not None:
                    files[f"{name}-{axis}.png" if axis else f"{name}.png"] = encode_figure(figure, "png")
    return files


def render_figure(
    name: str,
    records: Iterable[Record],
    *,
    run: Path | None = None,
    format_: str = "png",
    width: float = WIDTH,
    axis: str = "",
) -> bytes:
    """Return one figure.

    Args:
        name: the kind.
        records: with their learning curves, if the kind needs those.
        run: the folder of the run; None for an archive.
        format_: one of `FORMATS`.
        width: in inches.
        axis: of a kind that has one figure for every axis; empty: the defense, or another axis that varies.

    Raises:
        BenchError: if there is nothing to draw, or no such kind or axis.
    """
    from leaderboard.figures.figure_data import collect_figure_data
    from leaderboard.figures.style import encode_figure, figure_style
    from leaderboard.rows import varying_axes

    kind = find_figure_kind(name)
    data = collect_figure_data(records, run, width)
    if kind.by_axis:
        varying = varying_axes(data.frame)
        axis = axis or ("defense" if "defense" in varying else next(iter(varying), "defense"))
    elif axis:
        raise BenchError(f"a figure of kind {name!r} has no axis to choose: leave out --axis")
    with figure_style():
        figure = _draw(kind, data, axis)
        if figure is None:
            of_axis = f" {axis!r}" if axis else ""
            raise BenchError(
                f"there is nothing to draw: a figure of kind {name!r} needs {kind.needs}{of_axis}"
            )
        return encode_figure(figure, format_)


def find_figure_kind(name: str) -> FigureKind:
    """Return a kind of figure by its name.

    Raises:
        BenchError: if there is none.
    """
    if name not in KINDS:
        raise unknown_name_error("kind of figure", name, set(KINDS))
    return KINDS[name]


def _draw(kind: FigureKind, data: "FigureData", axis: str) -> "Figure | None":
    module, function = kind.drawn_by.split(":")
    draw: Callable[..., Figure | None] = getattr(import_module(f"{__name__}.{module}"), function)
    return draw(data, axis) if kind.by_axis else draw(data)
