"""Which stored results belong to the datasets as they are now, and in which precision they were computed."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from bench.api import Dataset
from bench.engine.planning.cell import AnyItem, ChosenPart, ItemKind, dataset_of
from bench.engine.stages.context import RunContext
from bench.engine.stages.loaded_data import cached_fingerprint, needs_files
from bench.errors import describe_error

_NOUNS: dict[ItemKind, str] = {
    "surrogates": "surrogate",
    "poisons": "poison",
    "purified": "purified set",
    "cells": "cell",
}


class PresentData:
    """Compares stored results with the data of a run.

    A dataset is read only if there is a result of it, and once. One that needs no files is identified by its
    parameters, which are part of every key.
    """

    def __init__(self, run_context: RunContext) -> None:
        self._run_context = run_context
        self._fingerprints: dict[Dataset, str | None] = {}
        self._unreadable: list[str] = []
        self._others: Counter[tuple[str, bool, str]] = Counter()  # dataset, whether unknown, noun
        self._other_precisions: Counter[tuple[str, str]] = Counter()  # precision, noun

    def owns(self, item: AnyItem, stored: Mapping[str, Any]) -> bool:
        """Return whether a stored item is of the present data; if not, it is counted for the notices.

        Args:
            item: what was stored.
            stored: what is known about it; earlier versions noted less of the data, or nothing.
        """
        # A cell's record is its environment; what is known of other items holds theirs.
        precision = stored.get("environment", stored).get("precision", "float32")
        if precision != self._run_context.precision:
            self._other_precisions[precision, _NOUNS[item.kind]] += 1
        dataset = dataset_of(item)
        if dataset.part not in self._fingerprints:
            self._fingerprints[dataset.part] = self._read_fingerprint(dataset)
        present, data = self._fingerprints[dataset.part], stored.get("data", "")
        if present is None or data == present:
            return True
        self._others[dataset.label, present.startswith(data), _NOUNS[item.kind]] += 1
        return False

    def _read_fingerprint(self, dataset: ChosenPart[Dataset]) -> str | None:
        """Return the fingerprint, None for a dataset that its parameters identify or that cannot be read."""
        if not needs_files(dataset.part):
            return None
        try:
            return cached_fingerprint(dataset.part.load(self._run_context.data_root, self._run_context.cache))
        except (Exception, SystemExit) as error:  # a dataset from outside may raise anything
            self._unreadable.append(
                f"dataset {dataset.label!r} cannot be read, so no result is compared with it: "
                f"{describe_error(error)}"
            )
            return None

    def notices(self) -> Iterator[str]:
        """Yield one sentence for each dataset that is unreadable or has results of other data.

        Also for each other precision in which results were computed.
        """
        yield from self._unreadable
        for dataset, is_unknown in sorted({key[:2] for key in self._others}):
            counts = _list_counts(
                {
                    noun: count
                    for (label, unknown, noun), count in self._others.items()
                    if (label, unknown) == (dataset, is_unknown)
                }
            )
            why = (
                "are of an earlier version, which did not note the test images"
                if is_unknown
                else f"belong to other data than what is now under {self._run_context.data_root}"
            )
            yield f"dataset {dataset!r}: {counts} in {self._run_context.out} {why}; they are made again"
        for precision in sorted({key[0] for key in self._other_precisions}):
            counts = _list_counts(
                {noun: count for (other, noun), count in self._other_precisions.items() if other == precision}
            )
            yield (
                f"computed in {precision}, not in {self._run_context.precision}: {counts} in "
                f"{self._run_context.out}; --rerun all makes them again"
            )


def _list_counts(counts: Mapping[str, int]) -> str:
    """Return nouns and how many there are of each, in words."""
    return ", ".join(f"{count} {noun}" + ("" if count == 1 else "s") for noun, count in counts.items())
