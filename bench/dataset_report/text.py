"""The report of a dataset as plain text."""

from collections.abc import Iterator, Mapping, Sequence

from tabulate import tabulate

from bench.dataset_report.statistics import QUANTILES, DatasetStatistics, LabelCounts, TaskStatistics

METRIC_NAMES = {
    "auroc": "AUROC",
    "miou": "mIoU",
    "absolute_error": "absolute error (m)",
    "mean_angle": "mean angle (°)",
}


def render_text(statistics: DatasetStatistics) -> str:
    """Return the report as text for a terminal."""
    facts = [(f"{heading}:", fact) for heading, fact in statistics.facts]
    lines = [statistics.name, "", tabulate(facts, tablefmt="plain")]
    if binary := [task for task in statistics.tasks if task.is_binary]:
        lines += ["", _binary_table(binary)]
    for task in statistics.tasks:
        if not task.is_binary:
            lines += ["", *_task_lines(task)]
    notes = [f"{task.name}: {remark}" for task in statistics.tasks for remark in task.remarks]
    notes += statistics.notes
    if statistics.leaks:
        notes.append(
            f"leak: {statistics.leaks:,} of {statistics.test_images:,} test images are pixel-identical to a"
            " training image"
        )
    return "\n".join([*lines, "", *(f"note: {note}" for note in notes)]).rstrip("\n")


def format_floor(floor: Mapping[str, float | None]) -> str:
    """Return floors as ``accuracy 0.812, balanced accuracy 0.500``."""
    return ", ".join(
        f"{METRIC_NAMES.get(metric, metric.replace('_', ' '))} "
        + ("undefined" if value is None else f"{value:.3f}")
        for metric, value in floor.items()
    )


def _binary_table(tasks: Sequence[TaskStatistics]) -> str:
    rows = [
        (
            task.name,
            task.class_names[1],
            *_count_and_percent(task.train, 1),
            *_count_and_percent(task.test, 1),
            f"{task.train.missing:,} + {task.test.missing:,}",
            format_floor(task.floor),
        )
        for task in tasks
    ]
    headers = ("task", "class", "train", "%", "test", "%", "without label", "floor")
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 5, "left"))


def _count_and_percent(counts: LabelCounts, label: int) -> tuple[str, str]:
    return f"{counts.per_class[label]:,}", f"{100 * counts.shares[label]:.1f}"


def _task_lines(task: TaskStatistics) -> Iterator[str]:
    yield f"{task.name}: {', '.join(task.details)}; floor: {format_floor(task.floor)}"
    rows = [
        (name, *_count_and_percent(task.train, label), *_count_and_percent(task.test, label))
        for label, name in enumerate(task.class_names)
    ]
    missing = [
        (f"{counts.missing:,}", f"({100 * counts.missing_share:.1f})") for counts in (task.train, task.test)
    ]
    rows.append(("without label", *missing[0], *missing[1]))
    headers = (f"{task.unit} with", "train", "%", "test", "%")
    yield tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 4))
    for split, values in task.quantiles.items():
        quantiles = ", ".join(
            f"{100 * q:g} % {value:.2f}" for q, value in zip(QUANTILES, values, strict=True)
        )
        yield f"quantiles of {split} in meters: {quantiles}"
