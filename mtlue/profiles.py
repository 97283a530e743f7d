"""The settings in which MTL-UE's paper and its public code differ."""

from dataclasses import dataclass

OFFICIAL_EPSILON = 0.0314 / (8 / 255)
"""The public code's clamp, 0.0314, in units of the budget."""


@dataclass(frozen=True)
class Profile:
    """Settings in which the paper and its public code differ.

    Attributes:
        intra: λ1, weight of the intra-task regularizer.
        inter: λ2, weight of the inter-task regularizer.
        per_task: the intra-task regularizer is averaged within a task first, and 1 is added.
        shared_crop: one crop and flip for a whole batch.
        away_if_binary: if all tasks have two classes, TAP makes the true labels' losses large.
        clamp: of δ, in units of the budget.
    """

    intra: float
    inter: float
    per_task: bool
    shared_crop: bool
    away_if_binary: bool
    clamp: float


PROFILES = {
    "paper": Profile(20.0, 100.0, per_task=False, shared_crop=False, away_if_binary=False, clamp=1.0),
    "official": Profile(
        10.0, 200.0, per_task=True, shared_crop=True, away_if_binary=True, clamp=OFFICIAL_EPSILON
    ),
}


@dataclass(frozen=True)
class GeneratorTraining:
    """How long the generator is trained, and on how many images at a time.

    Attributes:
        rounds: cap on the passes over the training set.
        batch: images per step.
        stop_error: training stops when the aim is missed on at most this share of the labels.
    """

    rounds: int
    batch: int
    stop_error: float
