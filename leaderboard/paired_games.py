"""The difference of two sides of a game: of the protections that are left when the exploiter has chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from leaderboard.statistics import PairedDifferences, compare_pairs, seed_interval, sign_flip_p_value


@dataclass(frozen=True)
class PairedGames:
    """Protections of both sides in the same games.

    Attributes:
        a: protections [games choices seeds] of one side, 0 where there is none.
        b: those of the other side.
        present: 1 where there are protections, which are of both sides, and 0 elsewhere.
    """

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    present: NDArray[np.float64]

    @property
    def is_complete(self) -> bool:
        """Whether every choice of every game has all seeds."""
        counts = self.present.sum(axis=2)
        return bool(((counts == 0) | (counts == self.present.shape[2])).all())

    def differences(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return A - B [b] for weights [b n] of the seeds: each side has its own choice."""
        return self._left(self._means(self.a, weights)) - self._left(self._means(self.b, weights))

    def flipped_differences(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return A - B [b] for signs [b n]: where one is -1, the sides are exchanged in that seed."""
        uniform = np.ones((1, signs.shape[1]))
        middle = self._means((self.a + self.b) / 2, uniform)
        half = (self.a - self.b) / 2 @ signs.T / self.present.sum(axis=2, keepdims=True).clip(min=1)
        return self._left(middle + half) - self._left(middle - half)

    def _means(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return means over seeds [games choices b], infinite where there are none: never chosen."""
        total = self.present @ weights.T
        return np.where(total > 0, values @ weights.T / np.where(total > 0, total, 1), np.inf)

    @staticmethod
    def _left(means: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(means.min(axis=1).mean(axis=0))


def compare_games(cells: DataFrame, games: Sequence[str], choices: Sequence[str]) -> PairedDifferences:
    """Return the difference of the headlines of both sides, with the choices made anew in every resample.

    In a game the exploiter makes the choice that leaves least protection as a mean over seeds; a headline is
    the mean over games. What the clean victims learned is the same on both sides and is not resampled.

    Args:
        cells: a row per pair of cells: the columns ``games`` and ``choices``, ``seed``, ``protection_a``,
            ``protection_b``, which may be missing, and ``difference``.
        games: columns that are equal within a game.
        choices: columns that the exploiter chooses.
    """
    counts = compare_pairs(cells["difference"], cells["seed"])
    cells = cells[cells["difference"].notna()]
    if not len(cells):
        return counts
    paired = _to_games(cells, games, choices)
    seeds = counts.seeds
    return replace(
        counts,
        mean=float(paired.differences(np.full((1, seeds), 1 / seeds))[0]),
        interval=seed_interval(paired.differences, seeds) if paired.is_complete else None,
        p_value=sign_flip_p_value(paired.flipped_differences, seeds),
    )


def _to_games(cells: DataFrame, games: Sequence[str], choices: Sequence[str]) -> PairedGames:
    game = cells.groupby(list(games)).ngroup().to_numpy()
    choice = cells.groupby(list(choices)).ngroup().to_numpy() if choices else np.zeros(len(cells), int)
    seeds, seed = np.unique(cells["seed"], return_inverse=True)
    shape = (game.max() + 1, choice.max() + 1, len(seeds))

    def place(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, (game, choice, seed), values)
        np.add.at(counts, (game, choice, seed), 1)
        return np.asarray(sums / counts.clip(min=1))

    a, b = (place(cells[name].to_numpy(float)) for name in ("protection_a", "protection_b"))
    return PairedGames(a, b, place(np.ones(len(cells))))
