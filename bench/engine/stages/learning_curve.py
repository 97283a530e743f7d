"""Learning curves of a cell's networks: the epoch that counts, the merged curve, the peaks."""

from collections.abc import Sequence
from statistics import fmean

from bench.record import Epoch, Scores, TaskInfo, relative_score

LearningCurve = list[Epoch]
"""One point per epoch, in order."""


def validation_scores(scores: Scores, infos: dict[str, TaskInfo]) -> dict[str, float]:
    """Return every task's `relative_score`, 0 if it is undefined."""
    shares = {task: relative_score(infos[task], scores[task][infos[task]["scored"]]) for task in scores}
    return {task: 0.0 if share is None else share for task, share in shares.items()}


def select_epoch(curve: LearningCurve) -> Epoch:
    """Return the epoch of one network that counts: the last, or the one with the best mean validation."""
    if "validation" not in curve[-1]:
        return curve[-1]
    return max(curve, key=lambda epoch: fmean(epoch["validation"].values()))


def selected_scores(curves: Sequence[LearningCurve]) -> Scores:
    """Return the scores of all tasks, from the epoch of each network that counts."""
    return {task: scores for curve in curves for task, scores in select_epoch(curve)["scores"].items()}


def merge_curves(curves: Sequence[LearningCurve]) -> LearningCurve:
    """Merge the curves of a regime's networks into one; the loss is the mean over them."""
    return [_merge_epochs(epochs) for epochs in zip(*curves, strict=True)]


def _merge_epochs(epochs: Sequence[Epoch]) -> Epoch:
    losses = [epoch["train_loss"] for epoch in epochs]
    known = [loss for loss in losses if loss is not None]
    merged = Epoch(
        epoch=epochs[0]["epoch"],
        train_loss=sum(known) / len(known) if len(known) == len(losses) else None,
        learning_rate=epochs[0]["learning_rate"],
        weights={name: weight for epoch in epochs for name, weight in epoch["weights"].items()},
        scores={name: scores for epoch in epochs for name, scores in epoch["scores"].items()},
    )
    if unanswered := sum(epoch.get("unanswered", 0) for epoch in epochs):
        merged["unanswered"] = unanswered
    if "validation" in epochs[0]:
        merged["validation"] = {
            name: value for epoch in epochs for name, value in epoch["validation"].items()
        }
    return merged


def peak_scores(curve: LearningCurve, infos: dict[str, TaskInfo]) -> Scores:
    """Return per task and metric the best value over the epochs; for the loss, the smallest."""
    peak: Scores = {}
    for task, info in infos.items():
        peak[task] = {}
        for metric in curve[-1]["scores"][task]:
            values = [epoch["scores"][task][metric] for epoch in curve]
            known = [value for value in values if value is not None]
            best = max if info["perfect"].get(metric, 0.0) > info["floor"].get(metric, 1.0) else min
            peak[task][metric] = best(known) if known else None
    return peak
