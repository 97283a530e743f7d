"""Figures at the size of a paper: nothing overlaps, nothing is too small, the same bytes in every format."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pandas import DataFrame

from bench.errors import BenchError
from bench.example_images import EXAMPLES, ExampleImages, encode_example_images
from bench.record import Record
from leaderboard.figures import FORMATS, KINDS, render_figure
from leaderboard.figures.cost import draw_costs
from leaderboard.figures.figure_data import FigureData, collect_figure_data
from leaderboard.figures.heatmap import draw_heatmap
from leaderboard.figures.images import draw_images
from leaderboard.figures.ranking import draw_ranking
from leaderboard.figures.style import FONT_SIZE, figure_style, shorten, split_columns, style_of
from leaderboard.figures.tasks import draw_tasks
from leaderboard.pareto_front import pareto_front
from tests.records import cost, make_record

ATTACKS = [f"attack-{number}(with-a-parameter=0.{number})" for number in range(25)]
DEFENSES = ["none", *(f"jpeg(quality={number})+cutmix" for number in range(24))]
TASKS = [f"Wearing_Something_{number}" for number in range(40)]


def many() -> list[Record]:
    """25 attacks, 25 defenses and 40 tasks: as many as a suite may have. Only the first task is defended."""
    skills = {"clean": 1.0} | {attack: 0.04 * number for number, attack in enumerate(ATTACKS)}
    return [
        make_record(
            {
                task: 0.5 + 0.5 * skill * (1 if attack == "clean" else 1 - 0.02 * place)
                for place, task in enumerate(TASKS if defense == "none" else TASKS[:1])
            },
            attack=attack,
            defense=defense,
            costs={} if attack == "clean" else {"craft": cost(1 + 100 * skill * skill)},
        )
        for attack, skill in skills.items()
        for defense in DEFENSES
    ]


@pytest.fixture(scope="module")
def all_budgets() -> DataFrame:
    return collect_figure_data(many(), None, 7.0).all_budgets


DRAW = {
    "ranking": draw_ranking,
    "heatmap": lambda data: draw_heatmap(data, "defense"),
    "cost": draw_costs,
    "tasks": draw_tasks,
}


@pytest.mark.parametrize("width", [3.5, 7.0])
@pytest.mark.parametrize("kind", DRAW)
def test_texts_are_large_enough_and_do_not_overlap(
    kind: str, width: float, all_budgets: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Text] = []
    monkeypatch.setattr(Text, "draw", lambda text, _: drawn.append(text))
    with figure_style():
        figure = DRAW[kind](FigureData(all_budgets, {}, None, width))
        assert figure is not None
        FigureCanvasAgg(figure).draw()
    texts = [text for text in drawn if text.get_visible() and text.get_text()]
    assert len(texts) > 25
    assert min(text.get_fontsize() for text in texts) >= FONT_SIZE
    boxes = np.array([text.get_window_extent().padded(-1).extents for text in texts])
    low, high = boxes[:, :2], boxes[:, 2:]
    overlap = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(axis=2)
    pairs = [(texts[i].get_text(), texts[j].get_text()) for i, j in np.argwhere(overlap) if i < j]
    assert pairs == []
    assert figure.get_figwidth() == width
    assert low.min() >= -1
    assert (high <= figure.bbox.max + 1).all()


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_has_the_same_bytes_every_time(format_: str) -> None:
    name = "em(word='<b>--></b> $x$ \u202e&')"
    few = [make_record({"a": score}, attack=attack) for attack, score in (("clean", 0.9), (name, 0.6))]
    once = render_figure("ranking", few, format_=format_)
    assert render_figure("ranking", few[::-1], format_=format_) == once
    assert once.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format_])
    assert b"Matplotlib v" not in once
    if format_ == "svg":
        assert ET.fromstring(once).tag.endswith("svg")


def test_what_cannot_be_drawn_is_said() -> None:
    one = [make_record({"a": 0.9}, attack="clean")]
    for kind in KINDS:
        with pytest.raises(BenchError, match=r"^there is nothing to draw: a figure of kind"):
            render_figure(kind, one)
    with pytest.raises(BenchError, match="did you mean 'ranking'"):
        render_figure("rankin", one)
    with pytest.raises(BenchError, match="leave out --axis"):
        render_figure("ranking", one, axis="defense")


def test_the_front_has_what_no_other_attack_beats_in_both() -> None:
    points = [(9.0, 0.8), (1.0, 0.2), (1.0, 0.5), (2.0, 0.5), (3.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.5), (3.0, 0.9)]


def test_images_are_clean_amplified_change_and_released(tmp_path: Path) -> None:
    few = [make_record({"a": score}, attack=attack) for attack, score in (("clean", 0.9), ("em", 0.6))]
    clean = np.full((2, 3, 4, 4), 100, dtype=np.uint8)
    released = clean.copy()
    released[:, :, :2] = 108
    folder = tmp_path / "poisons" / few[1].poison
    folder.mkdir(parents=True)
    images = ExampleImages(np.array([0, 1]), clean, released, 8)
    (folder / EXAMPLES).write_bytes(encode_example_images(images))
    figure = draw_images(collect_figure_data(few, tmp_path, 7.0))
    assert figure is not None
    [axes] = figure.axes
    assert [text.get_text() for text in axes.texts] == [
        "em, δ × 15",
        "clean image, amplified δ, released image; images were shrunk, which weakens δ",
    ]
    [shown] = axes.images
    row = np.asarray(shown.get_array())[0, :, 0]
    assert row.tolist() == [100] * 4 + [255] + [128 + 15 * 8] * 4 + [255] + [108] * 4


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten("mtl-ue-em", 2.0) == "mtl-ue-em"
    assert shorten("mtl-ue-em(rounds=3)\n", 0.7) == "mtl-ue…s=3) "
    assert split_columns(list("abcde"), 1.0, 0.3) == [["a", "b", "c"], ["d", "e"]]


def test_series_differ_in_more_than_color() -> None:
    styles = [style_of(number) for number in range(25)]
    assert len({(style["color"], style["marker"]) for style in styles}) == 25
    assert len({(style["marker"], style["linestyle"]) for style in styles[:20]}) == 20
