"""The report of a dataset as plain text."""

from collections.abc import Iterator, Mapping, Sequence

from tabulate import tabulate

from bench.dataset_report.statistics import METRIC_NAMES, QUANTILES, Counts, DatasetStatistics, TaskStatistics


def render_text(sheet: DatasetStatistics) -> str:
    """Return the sheet as text for a terminal."""
    lines = [sheet.name, "", tabulate([(f"{what}:", value) for what, value in sheet.facts], tablefmt="plain")]
    binary = [task for task in sheet.tasks if task.binary]
    if binary:
        lines += ["", _binary_table(binary)]
    for task in sheet.tasks:
        if not task.binary:
            lines += ["", *_task_lines(task)]
    said = [f"{task.name}: {remark}" for task in sheet.tasks for remark in task.remarks]
    said += sheet.notes
    if sheet.leaks:
        said.append(
            f"leak: {sheet.leaks:,} of {sheet.test:,} test images are, pixel for pixel, training images"
        )
    return "\n".join([*lines, "", *(f"note: {sentence}" for sentence in said)]).rstrip("\n")


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
            *_cells(task.train, 1),
            *_cells(task.test, 1),
            f"{task.train.missing:,} + {task.test.missing:,}",
            format_floor(task.floor),
        )
        for task in tasks
    ]
    headers = ("task", "class", "train", "%", "test", "%", "without label", "floor")
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 5, "left"))


def _cells(counts: Counts, label: int) -> tuple[str, str]:
    return f"{counts.classes[label]:,}", f"{100 * counts.shares[label]:.1f}"


def _task_lines(task: TaskStatistics) -> Iterator[str]:
    yield f"{task.name}: {', '.join(task.about)}; floor: {format_floor(task.floor)}"
    rows = [
        (name, *_cells(task.train, label), *_cells(task.test, label))
        for label, name in enumerate(task.class_names)
    ]
    missing = [(f"{some.missing:,}", f"({100 * some.missing_share:.1f})") for some in (task.train, task.test)]
    rows.append(("without label", *missing[0], *missing[1]))
    headers = (f"{task.unit} with", "train", "%", "test", "%")
    yield tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 4))
    for split, values in task.quantiles.items():
        spelled = ", ".join(f"{100 * q:g} % {value:.2f}" for q, value in zip(QUANTILES, values, strict=True))
        yield f"quantiles of {split} in meters: {spelled}"
