"""Properties of a poison's δ: how visible it is, how it clusters by class, how linearly separable it is."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional

from bench.api import Task
from bench.memory import rows_per_chunk
from bench.record import NoiseReport, TaskNoise
from bench.tasks.classification import Classification
from bench.tasks.labels import one_hot
from bench.values import MISSING, Split, Targets

VALUES = 2**22
"""Pixel values processed together; changes speed and memory, not results."""

SSIM_VALUES = 2**17
"""The same for SSIM: on a CPU its convolutions are several times faster if they fit the cache."""

SSIM_IMAGES = 1000
"""Most images whose SSIM is computed, drawn with a fixed seed: the mean is known to 0.001."""

LINEAR_IMAGES = 3000
"""Most images the linear classifier sees, drawn with a fixed seed: three quarters for training."""

LINEAR_VALUES = 2**14
"""Most pixel values of an image it sees, drawn with a fixed seed."""

COLUMNS = 4096
"""Pixel values per image that enter the inner products together; changes memory only."""

UNDEFINED: dict[str, float | None] = {"accuracy": None, "balanced_accuracy": None, "floor": None}
"""Scores if there are fewer than two classes, or no test image."""


@torch.no_grad()
def noise_report(
    train: Split, change: Int[Tensor, "n c h w"] | None, tasks: Sequence[Task], device: torch.device
) -> NoiseReport:
    """Return the properties of a change that the statistics of `quantize_delta` do not have.

    ``ssim`` is the mean over at most `SSIM_IMAGES` images of the structural similarity of clean and released
    image: Gaussian window of 11 pixels with σ = 1.5, edges reflected; below 7 pixels a side the window
    shrinks to what fits. ``tasks`` has a `bench.record.TaskNoise` for every classification, over the labeled
    images. It neither depends on the state of a random generator nor changes one.

    Source: SSIM: Wang et al., IEEE TIP 2004; spread and distance: the quantities of Yu et al., ICML 2025
    (MTL-UE), Table 1; separability of δ: Yu et al., KDD 2022, arXiv:2111.00898 (LSP)

    Args:
        train: the clean images and their labels; may be memory-mapped.
        change: what is added to them, in steps of 1/255; None if nothing is.
        tasks: the tasks of the dataset; only classifications are measured.
        device: where to compute.
    """
    if change is None or not change.any():
        return {"ssim": 1.0, "tasks": {}}
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    classified = [task for task in tasks if isinstance(task, Classification)]
    by_task = _measure_tasks(train, change, classified, order[:LINEAR_IMAGES], device) if classified else {}
    return {"ssim": _mean_ssim(train, change, order[:SSIM_IMAGES], device), "tasks": by_task}


def _measure_tasks(
    train: Split,
    change: Int[Tensor, "n c h w"],
    tasks: Sequence[Classification],
    rows: Int64[Tensor, " m"],
    device: torch.device,
) -> dict[str, TaskNoise]:
    structures = _class_structures(train, change, tasks, device)
    linear = _linear_scores(train, change, tasks, rows, device)
    return {
        task.name: TaskNoise(
            intra_spread=intra,
            inter_distance=inter,
            linear_accuracy=linear[task.name]["accuracy"],
            linear_balanced_accuracy=linear[task.name]["balanced_accuracy"],
            linear_floor=linear[task.name]["floor"],
        )
        for task, (intra, inter) in zip(tasks, structures, strict=True)
    }


def _mean_ssim(
    train: Split, change: Int[Tensor, "n c h w"], rows: Int64[Tensor, " m"], device: torch.device
) -> float:
    from bench.tasks.metrics import structural_similarity_index_measure

    channels, height, width = change.shape[1:]
    # The library's window reaches int(3.5 σ + 0.5) pixels to each side, which must lie within the image.
    sigma = max(0.1, min(1.5, (min(height, width) - 1) / 3.5))
    total = 0.0
    # In the GPU's shortened floats a variance is as uncertain as the constant it is compared with.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for some in rows.split(max(1, SSIM_VALUES // change[0].numel())):
            clean = train.images[some].to(device).float()
            released = clean + change[some].to(device)
            # Its value for an image is the mean over channels, and single channels convolve much faster.
            single = (len(some) * channels, 1, height, width)
            similarities = structural_similarity_index_measure(
                released.view(single) / 255,
                clean.view(single) / 255,
                sigma=sigma,
                data_range=1.0,
                reduction="none",
            )
            total += float(torch.as_tensor(similarities).sum(dtype=torch.double)) / channels
    return total / len(rows)


def _class_structures(
    train: Split, change: Int[Tensor, "n c h w"], tasks: Sequence[Classification], device: torch.device
) -> list[tuple[float | None, float | None]]:
    """Return the spread within classes and the distance between their means of every task, in one pass.

    The sums are of whole numbers, exact up to 2⁵³, so that equal δ within a class give a spread of 0.
    """
    sizes = [task.classes for task in tasks]
    values = change[0].numel()
    counts = torch.zeros(sum(sizes), dtype=torch.double, device=device)
    squares = torch.zeros_like(counts)
    sums = torch.zeros(sum(sizes), values, dtype=torch.double, device=device)
    for rows in torch.arange(len(train)).split(max(1, VALUES // values)):
        delta = change[rows].flatten(1).to(device).float()
        members = torch.cat(
            [one_hot(train.targets[task.name][rows].to(device), task.classes) for task in tasks], dim=1
        )
        counts += members.sum(0)
        squares += members.double().T @ delta.square().sum(1, dtype=torch.double)
        sums += members.T @ delta
    return [
        _class_structure(*parts)
        for parts in zip(counts.split(sizes), squares.split(sizes), sums.split(sizes), strict=True)
    ]


def _class_structure(
    counts: Float[Tensor, " k"], squares: Float[Tensor, " k"], sums: Float[Tensor, "k p"]
) -> tuple[float | None, float | None]:
    """Return spread and distance from each class's number of images, Σ‖δ‖² and Σδ, in steps of 1/255."""
    occurring = counts > 0
    counts, squares, sums = counts[occurring], squares[occurring], sums[occurring]
    if not len(counts):
        return None, None
    variances = (counts * squares - sums.square().sum(1)).clamp(min=0) / counts.square()
    intra = float(variances.sqrt().mean()) / 255
    if len(counts) < 2:
        return intra, None
    return intra, float(functional.pdist(sums / counts[:, None]).mean()) / 255


def _linear_scores(
    train: Split,
    change: Int[Tensor, "n c h w"],
    tasks: Sequence[Classification],
    rows: Int64[Tensor, " m"],
    device: torch.device,
) -> dict[str, dict[str, float | None]]:
    """Return the scores of a linear classifier that sees only δ, trained on three quarters of the rows.

    The last quarter of the rows is for the scores.
    """
    products = _inner_products(change, rows, len(rows) - len(rows) // 4, device)
    labels = {task.name: train.targets[task.name][rows].to(device) for task in tasks}
    # Most tasks have a label for every image, so that they share the same equations.
    by_labeled: dict[bytes, list[Classification]] = {}
    for task in tasks:
        by_labeled.setdefault((labels[task.name] != MISSING).cpu().numpy().tobytes(), []).append(task)
    scores: dict[str, dict[str, float | None]] = {}
    for group in by_labeled.values():
        scores |= _ridge_scores(products, group, labels)
    return scores


def _inner_products(
    change: Int[Tensor, "n c h w"], rows: Int64[Tensor, " m"], fitted: int, device: torch.device
) -> Float[Tensor, "f m"]:
    """Return ⟨δ, δ'⟩ of the first ``fitted`` rows with all rows, computed in blocks of pixels."""
    products = torch.zeros(fitted, len(rows), dtype=torch.double, device=device)
    seen = torch.arange(change[0].numel())
    if len(seen) > LINEAR_VALUES:
        drawn = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
        seen = drawn[:LINEAR_VALUES].sort().values
        change = torch.cat([change[some].flatten(1)[:, seen] for some in rows.split(rows_per_chunk(change))])
        rows = torch.arange(len(rows))
    for block in change.flatten(1).split(COLUMNS, dim=1):
        part = block[rows].to(device).float()
        products += part[:fitted] @ part.T
    return products


def _ridge_scores(
    products: Float[Tensor, "f m"], tasks: Sequence[Classification], labels: Targets
) -> dict[str, dict[str, float | None]]:
    """Return the scores of tasks that have labels for the same images.

    Ridge regression with an intercept on one-hot classes, over all pixels, solved in the space of the images.
    Its penalty is the mean squared norm of the centered δ: it hardly changes patterns that many images share
    and damps the noise of a single image.
    """
    labeled = labels[tasks[0].name] != MISSING
    fit, asked = labeled[: len(products)], labeled.clone()
    asked[: len(products)] = False
    known = {task.name: labels[task.name][: len(products)][fit] for task in tasks}
    hidden = {task.name: labels[task.name][asked] for task in tasks}
    if not fit.any() or not asked.any():
        return {task.name: dict(UNDEFINED) for task in tasks}
    square, cross = products[fit][:, : len(products)][:, fit], products[fit][:, asked].T
    means, mean = square.mean(0), square.mean()
    centered = square - means - means[:, None] + mean
    # If all δ are equal or zero, only rounding errors remain, or nothing; any penalty above these works.
    penalty = float(centered.diagonal().mean() + 1e-6 * square.diagonal().mean()) or 1.0
    centered.diagonal().add_(penalty)
    targets = torch.cat([one_hot(known[task.name], task.classes) for task in tasks], dim=1).double()
    weights = torch.cholesky_solve(targets - targets.mean(0), torch.linalg.cholesky(centered))
    answers = (cross - cross.mean(1, keepdim=True) - means + mean) @ weights + targets.mean(0)
    return {
        task.name: _accuracy_scores(task, outputs.argmax(1), known[task.name], hidden[task.name])
        for task, outputs in zip(tasks, answers.split([task.classes for task in tasks], dim=1), strict=True)
    }


def _accuracy_scores(
    task: Classification,
    predicted: Int64[Tensor, " a"],
    known: Int64[Tensor, " g"],
    hidden: Int64[Tensor, " a"],
) -> dict[str, float | None]:
    from bench.tasks.metrics import multiclass_recall

    if len(known.unique()) < 2:
        return dict(UNDEFINED)
    recall = multiclass_recall(predicted, hidden, num_classes=task.classes, average="none")
    return {
        "accuracy": float((predicted == hidden).double().mean()),
        "balanced_accuracy": float(recall[hidden.unique()].double().mean()),
        "floor": float((hidden == known.bincount().argmax()).double().mean()),
    }
