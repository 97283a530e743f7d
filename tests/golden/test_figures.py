"""The board in pictures: what there is to draw, and the numbers that are drawn."""

import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from bench.record import Epoch, Record
from leaderboard.figures import WIDTH, draw_figures
from leaderboard.figures.cost import draw_costs
from leaderboard.figures.curves import draw_curves
from leaderboard.figures.figure_data import FigureData, collect_figure_data
from leaderboard.figures.ranking import draw_ranking
from leaderboard.frame import to_frame
from leaderboard.ranking import rank_attacks
from tests.records import fail, make_record, matrix, task_info

PNG = b"\x89PNG\r\n"


def board() -> list[Record]:
    """Two attacks, two defenses, three seeds; every victim learns evenly over four epochs."""
    zeros = {"none": (0.0, 0.0), "jpeg": (0.0, 0.0)}
    protections = {"clean": zeros, "em": {"none": (0.9, 1.0), "jpeg": (0.3, 0.5)}, "mtl-ue-em": zeros}
    return [with_curve(record) for record in matrix(protections)]


def with_curve(record: Record, epochs: int = 4) -> Record:
    def scores(epoch: int) -> dict[str, dict[str, float | None]]:
        return {
            task: {
                metric: None if value is None else 0.5 + (value - 0.5) * epoch / epochs
                for metric, value in metrics.items()
            }
            for task, metrics in record.scores.items()
        }

    return replace(
        record,
        curve=[
            Epoch(epoch=e, train_loss=1.0, learning_rate=0.1, weights={}, scores=scores(e))
            for e in range(1, epochs + 1)
        ],
    )


def collect(records: list[Record]) -> FigureData:
    return collect_figure_data(records, None, WIDTH)


@pytest.fixture(scope="module")
def data() -> FigureData:
    """What the figures of `board` are drawn from."""
    return collect(board())


def test_the_same_records_give_the_same_bytes_in_any_order() -> None:
    records = board()
    once = draw_figures(records)
    assert list(once) == ["ranking.png", "heatmap-defense.png", "curves.png", "cost.png", "tasks.png"]
    assert all(content.startswith(PNG) for content in once.values())
    random.Random(0).shuffle(records)
    assert draw_figures(iter(records)) == once


def test_protection_is_that_of_the_ranking(data: FigureData) -> None:
    figure = draw_ranking(data)
    assert figure is not None
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["em", "mtl-ue-em"]
    least = axes.containers[0].lines[0]
    assert list(least.get_ydata()) == [0, 1]
    assert list(least.get_xdata()) == pytest.approx([0.42, 0.02])
    [bars] = axes.containers[0].lines[2]
    ranked = rank_attacks(to_frame(board()))
    ends = [float(end) for segment in bars.get_segments() for end in segment[:, 0]]
    assert ends == pytest.approx([ranked[end][row] for row in (0, 1) for end in ("low", "high")])
    [undefended] = [line for line in axes.lines if line.get_label() == "without a defense"]
    assert list(undefended.get_xdata()) == pytest.approx([0.97, 0.02])


def test_a_curve_is_the_mean_over_tasks_of_what_was_learned_poisoned_and_clean(
    data: FigureData,
) -> None:
    figure = draw_curves(data)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["em", "mtl-ue-em"]
    lines = {axes.get_title(): [list(line.get_ydata()) for line in axes.lines[1:]] for axes in panels}
    for attack, end in (("em", 0.03), ("mtl-ue-em", 0.98)):
        clean, poisoned = lines[attack]
        assert clean == pytest.approx([0.25, 0.5, 0.75, 1.0])
        assert poisoned == pytest.approx([end / 4, end / 2, end * 3 / 4, end])


def test_scores_that_fall_with_learning_count_upwards_and_missing_ones_are_left_out() -> None:
    tasks = {
        "depth": task_info("absolute_error", "absolute_error", floor=2.0, perfect=0.0, kind="depth"),
        "label": task_info(),
    }

    def cell(attack: str, depth: float, label: float | None) -> Record:
        record = make_record({"depth": depth, "label": label}, tasks=tasks, attack=attack)
        point: Any = {"epoch": 1, "train_loss": 1.0, "learning_rate": 0.1, "weights": {}}
        return replace(record, curve=[{**point, "scores": record.scores}])

    figure = draw_curves(collect([cell("clean", 1.0, 1.0), cell("em", 1.5, None)]))
    assert figure is not None
    [axes] = [axes for axes in figure.axes if axes.get_visible()]
    assert [list(line.get_ydata()) for line in axes.lines[1:]] == [[0.75], [0.25]]


def test_cost_is_per_attack_and_clean_has_none(data: FigureData) -> None:
    figure = draw_costs(data)
    assert figure is not None
    _, seconds, memory = figure.axes
    assert [label.get_text() for label in seconds.get_yticklabels()] == ["1 em", "2 mtl-ue-em"]
    [crafting] = seconds.lines
    assert list(zip(crafting.get_ydata(), crafting.get_xdata(), strict=True)) == [(0, 10.0), (1, 20.0)]
    assert memory.get_xlabel() == "peak memory of the process, MiB"


def test_what_there_is_not_is_not_drawn() -> None:
    assert draw_figures([]) == {}
    assert draw_figures([fail(attack="em")]) == {}
    assert draw_figures([make_record({"age": 0.9}, attack="clean")]) == {}


def test_names_are_text_and_no_formulas() -> None:
    dataset = r"folder(path='$\frac{$')"
    records = [
        make_record({"age": score}, attack=a, dataset=dataset) for a, score in (("clean", 0.9), ("em", 0.6))
    ]
    assert list(draw_figures(map(with_curve, records))) == ["ranking.png", "curves.png", "cost.png"]


def test_drawing_loads_no_torch() -> None:
    code = (
        "import sys; from leaderboard.figures import draw_figures; draw_figures([])\n"
        "sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
