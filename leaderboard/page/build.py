"""All files of the page, made from records."""

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.record import AXES, CLEAN, Record
from bench.text import to_one_line, to_printable
from leaderboard.board import PROTECTION
from leaderboard.formatting import format_count, format_score, metric_label
from leaderboard.page.attack_view import view_attack
from leaderboard.page.browser_data import (
    FILTER_AXES,
    cell_files,
    cells_data,
    encode_script,
    encode_value,
    ranking_data,
)
from leaderboard.page.content import MAX_CURVES, PageContent, gather_content
from leaderboard.page.cost_plot import place_costs
from leaderboard.page.folder import MARKER, encode_marker
from leaderboard.page.heat_view import axis_heatmaps, task_heatmaps
from leaderboard.page.images_view import ReadExamples, example_strips
from leaderboard.page.notes_view import (
    PublishedLine,
    list_failures,
    list_published,
    list_rankings_notes,
)
from leaderboard.page.ranking_view import RankedTrack, list_metrics, view_rankings
from leaderboard.summary import RankedBoard

ASSETS = (
    *("static/page.css", "static/page.js", "static/ranking.js", "static/cells.js", "static/cell.js"),
    *("static/plot.js", "vendored/uPlot.iife.min.js", "vendored/uPlot.min.css", "vendored/uPlot.LICENSE"),
)
"""Files of this package that every page has in its folder ``assets``."""


def render_web_page(
    board: RankedBoard,
    with_curves: Iterable[Record] = (),
    read_examples: ReadExamples = lambda _: None,
) -> dict[str, bytes]:
    """Return the files of the page: path in its folder → content. The same records give the same bytes.

    Args:
        board: the ranked records.
        with_curves: the same records with their learning curves; without them the page has none.
        read_examples: returns the example images of a poison, None if there are none.
    """
    content = gather_content(board, with_curves)
    environment = _make_environment(content)
    tracks = view_rankings(board)
    ranked = {row.attack: (track, row) for track in tracks for row in track.rows}
    published = list_published(content)
    pages = {
        "index.html": environment.get_template("index.html").render(
            _view_index(content, tracks, published), page="index"
        ),
        "cells.html": environment.get_template("cells.html").render(page="cells"),
        "cell.html": environment.get_template("cell.html").render(page="cell"),
    }
    attack_page = environment.get_template("attack.html")
    images: dict[str, bytes] = {}
    for attack, name in content.pages.items():
        track, row = ranked.get(attack, (None, None))
        examples = example_strips(content, attack, read_examples) if attack != CLEAN else []
        images |= {strip.path: strip.content for example in examples for strip in example.strips}
        pages[name] = attack_page.render(
            view=view_attack(content, attack),
            track=track,
            row=row,
            examples=examples,
            published=[line for line in published if line.measured_attack == attack],
            page="attack",
        )
    package = files("leaderboard.page")
    page = {
        **{name: page.encode() for name, page in pages.items()},
        "data/ranking.js": encode_script("ranking", ranking_data(content, tracks)),
        "data/cells.js": encode_script("cells", cells_data(content)),
        **dict(cell_files(content)),
        **images,
        **{f"assets/{name.partition('/')[2]}": (package / name).read_bytes() for name in ASSETS},
    }
    return page | {MARKER: encode_marker(page)}


def _make_environment(content: PageContent) -> Environment:
    """Return the environment of the templates: everything is escaped, and nothing unprintable is shown."""
    environment = Environment(
        loader=PackageLoader("leaderboard.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: to_printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "metric": metric_label,
        "count": format_count,
        "json_block": lambda value: Markup(encode_value(value)),
        "score": format_score,
        "breakable": mark_breaks,
    }
    environment.globals |= {
        "content": content,
        "pages": content.pages,
        "marks": content.marks,
        "axes": AXES,
        "filter_axes": FILTER_AXES,
        "clean": CLEAN,
        "max_curves": MAX_CURVES,
        "has_curves": bool(content.curves),
    }
    return environment


def mark_breaks(name: str) -> Markup:
    """Return a name, escaped, that a browser may break within its parameters or between its parts."""
    return Markup("<wbr>").join(re.split(r"(?<=[(+,=])", to_printable(name)))


def _view_index(
    content: PageContent, tracks: Sequence[RankedTrack], published: Sequence[PublishedLine]
) -> dict[str, Any]:
    board = content.board
    frame, done = board.all_budgets, board.selected.done
    facts = [
        ("cells", str(len(done))),
        ("attacks", str(len([attack for attack in content.pages if attack != CLEAN]))),
        ("datasets", str(frame["dataset"].nunique())),
        ("defenses", str(frame["defense"].nunique())),
        ("seeds", str(frame["seed"].nunique())),
        ("protocol", str(done[0].protocol) if done else "–"),
    ]
    return {
        "suites": ", ".join(sorted({to_one_line(record.suite) for record in done})),
        "facts": facts,
        "explanation": PROTECTION.replace("*", ""),
        "tracks": tracks,
        "metrics": list_metrics(tracks),
        "filters": {axis: sorted(board.frame[axis].unique()) for axis in FILTER_AXES},
        "heatmaps": axis_heatmaps(content),
        "task_maps": task_heatmaps(content),
        "plots": {track.track: plot for track in tracks if (plot := place_costs(track))},
        "published": published,
        "failures": list_failures(content),
        "notes": [*board.notes, *board.left_out],
        "ranking_notes": list_rankings_notes(content, tracks),
    }
