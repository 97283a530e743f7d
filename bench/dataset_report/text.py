"""The report of a dataset as plain text."""

from collections.abc import Iterator, Mapping, Sequence

from bench.dataset_report.statistics import QUANTILES, DatasetStatistics, LabelCounts, TaskStatistics
from bench.table import fill_paragraphs, format_table

METRIC_NAMES = {
    "auroc": "AUROC",
    "miou": "mIoU",
    "absolute_error": "absolute error (m)",
    "mean_angle": "mean angle (°)",
}


def render_text(statistics: DatasetStatistics, width: int | None = None) -> str:
    """Return the report as text for a terminal of a width; None: lines of any length."""
    facts = [(f"{heading}:", fact) for heading, fact in statistics.facts]
    lines = [statistics.name, "", format_table(facts, (), width, style="plain")]
    if binary := [task for task in statistics.tasks if task.is_binary]:
        lines += ["", _binary_table(binary, width)]
    for task in statistics.tasks:
        if not task.is_binary:
            lines += ["", *_task_lines(task, width)]
    notes = [f"{task.name}: {remark}" for task in statistics.tasks for remark in task.remarks]
    notes += statistics.notes
    if statistics.leaks:
        notes.append(
            f"leak: {statistics.leaks:,} of {statistics.test_images:,} test images are pixel-identical to a"
            " training image"
        )
    return "\n".join([*lines, "", *(fill_paragraphs(f"note: {note}", width) for note in notes)]).rstrip("\n")


def format_floor(floor: Mapping[str, float | None]) -> str:
    """Return floors as ``accuracy 0.812, balanced accuracy 0.500``."""
    return ", ".join(
        f"{_metric_name(metric)} " + ("undefined" if value is None else _format_floor_value(value))
        for metric, value in floor.items()
    )


def _metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def _format_floor_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _binary_table(tasks: Sequence[TaskStatistics], width: int | None) -> str:
    """Return a row per task; where the width is limited, metrics are named once, in the head."""
    metrics = list(dict.fromkeys(metric for task in tasks for metric in task.floor)) if width else []
    rows = [
        (
            task.name,
            task.class_names[1],
            *_count_and_percent(task.train, 1),
            *_count_and_percent(task.test, 1),
            f"{task.train.missing:,} + {task.test.missing:,}",
            *(
                [_format_floor_value(task.floor.get(metric)) for metric in metrics]
                or [format_floor(task.floor)]
            ),
        )
        for task in tasks
    ]
    floors = [f"floor: {_metric_name(metric)}" for metric in metrics] or ["floor"]
    headers = ("task", "class", "train", "%", "test", "%", "no label" if width else "without label", *floors)
    return format_table(rows, headers, width, right=range(2, 7), style="simple")


def _count_and_percent(counts: LabelCounts, label: int) -> tuple[str, str]:
    return f"{counts.per_class[label]:,}", f"{100 * counts.shares[label]:.1f}"


def _task_lines(task: TaskStatistics, width: int | None) -> Iterator[str]:
    head = f"{task.name}: {', '.join(task.details)}; floor: {format_floor(task.floor)}"
    yield fill_paragraphs(head, width)
    rows = [
        (name, *_count_and_percent(task.train, label), *_count_and_percent(task.test, label))
        for label, name in enumerate(task.class_names)
    ]
    missing = [
        (f"{counts.missing:,}", f"({100 * counts.missing_share:.1f})") for counts in (task.train, task.test)
    ]
    rows.append(("without label", *missing[0], *missing[1]))
    headers = (f"{task.unit} with", "train", "%", "test", "%")
    yield format_table(rows, headers, width, right=range(1, 5), style="simple")
    for split, values in task.quantiles.items():
        quantiles = ", ".join(
            f"{100 * q:g} % {value:.2f}" for q, value in zip(QUANTILES, values, strict=True)
        )
        yield fill_paragraphs(f"quantiles of {split} in meters: {quantiles}", width)
