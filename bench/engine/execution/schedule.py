"""The order of a run's items: when each can start, and which of those comes first."""

import heapq
from collections.abc import Mapping, Sequence

from bench.engine.planning.cell import AnyItem
from bench.engine.planning.durations import TimingLabels, timing_labels


class Schedule:
    """The items of a run that are not settled.

    An item can start when all items that it is made from are settled: made, or failed. Of those that can
    start, the first is the one with the longest expected time until the end of the run: its own and that of
    the longest chain of items that are made from it. Where no time is known yet, it counts as the longest
    known one, so that no long item is left for the end. Ties go by the order of the plan.
    """

    def __init__(self, items: Sequence[AnyItem], seconds: Mapping[TimingLabels, float]) -> None:
        """Take the items that are to be made.

        Args:
            items: in the order of the plan, each after those it is made from.
            seconds: how long earlier items took, by `timing_labels`.
        """
        self._seconds = dict(seconds)
        self._unsettled = {item.key: item for item in items}
        self._number = {item.key: number for number, item in enumerate(items)}
        self._labels = {item.key: timing_labels(item) for item in items}
        self._made_from: dict[str, list[str]] = {item.key: [] for item in items}
        self._missing = dict.fromkeys(self._unsettled, 0)  # how many of its sources are not settled
        for item in items:
            for source in self._made_from.keys() & set(item.sources):
                self._made_from[source].append(item.key)
                self._missing[item.key] += 1
        self._heap: list[tuple[float, int, str]] = []  # what can start
        self._measure()
        for key, missing in self._missing.items():
            if not missing:
                self._push(key)

    def __len__(self) -> int:
        """Return how many items are not settled."""
        return len(self._unsettled)

    def take(self) -> AnyItem | None:
        """Return the first of the items that can start and were not taken, None if there is none."""
        return self._unsettled[heapq.heappop(self._heap)[-1]] if self._heap else None

    def put_back(self, item: AnyItem) -> None:
        """Let an item that was taken be taken again."""
        self._push(item.key)

    def settle(self, item: AnyItem, seconds: float = 0.0) -> None:
        """Note that an item is made or failed, and how long it took; 0 says nothing about others."""
        del self._unsettled[item.key]
        if seconds and self._labels[item.key] not in self._seconds:
            self._seconds[self._labels[item.key]] = seconds
            self._measure()
        for key in self._made_from[item.key]:
            self._missing[key] -= 1
            if not self._missing[key]:
                self._push(key)

    def _measure(self) -> None:
        """Compute the expected seconds from the start of each item to the end of the longest chain."""
        unknown = max(self._seconds.values(), default=1.0)
        self._chain_s: dict[str, float] = {}
        for key in reversed(self._unsettled):
            behind = max((self._chain_s[other] for other in self._made_from[key]), default=0.0)
            self._chain_s[key] = self._seconds.get(self._labels[key], unknown) + behind
        waiting = [key for _, _, key in self._heap]
        self._heap.clear()
        for key in waiting:
            self._push(key)

    def _push(self, key: str) -> None:
        heapq.heappush(self._heap, (-self._chain_s[key], self._number[key], key))
