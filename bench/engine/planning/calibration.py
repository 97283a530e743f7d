"""Estimate how long items take from short measurements, where nothing like them was timed before.

A training takes its number of passes over the images times the seconds of a pass. These are measured with its
backbone on a few images. What a weighting, a defense or a regime adds is measured as a factor with a small
network. A crafting is run for a moment against a small network: how many passes through its surrogates it
needs, and how long it takes beside them.
"""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import torch

from bench.api import Dataset, PretrainingRegime
from bench.engine.planning import probes
from bench.engine.planning.cell import AnyItem, Cell, ChosenPart, Poison, Purified, Surrogate, dataset_of
from bench.engine.planning.dataset_sample import DatasetSample, take_sample
from bench.engine.planning.durations import MACHINE, timing_labels
from bench.engine.stages.context import RunContext, describe_environment
from bench.errors import BenchError
from bench.files import hash_json, require_file, write_atomically

BUDGET_S = 12.0
"""Seconds after which nothing more is measured. What is missing is estimated without it, or not at all, and
measured by the next call.
"""

NETWORKS_SHARE = 0.6
"""Part of that time for the networks of victims."""

VERSION = 1
"""Raised when measurements get another meaning."""

USUAL_BATCH = 128
"""Images per step of an attack that leaves it to its profile."""

PLAIN = {"weighting": "ew", "defense": "none"}
"""Axis → the part that takes the least time."""

FROZEN = 1 / 3
"""A pass without a gradient of the encoder, as part of one that trains it."""


class Calibration:
    """Estimates seconds, and measures what it needs for that if it was not measured before on this machine.

    Measurements are kept in the cache folder, for this machine, device, precision and version.

    Args:
        run_context: of the run that is planned.
        budget_s: the longest time for measurements; 0: only those that are there already.

    Attributes:
        is_complete: whether every measurement that was asked for was there, or there was time for it.
    """

    def __init__(self, run_context: RunContext, budget_s: float = BUDGET_S) -> None:
        self._run_context = run_context
        self._budget_s = budget_s
        self._spent_s = 0.0
        self.is_complete = True
        facts = describe_environment(run_context)
        known = [*MACHINE, "threads", "torch", "mtlue-bench"]
        name = hash_json([VERSION, *(facts[fact] for fact in known)])[:16]
        self._path = run_context.cache / f"calibration-{name}.json"
        self._measured = self._read()
        self._stored = len(self._measured)
        self._sample = cache(self._take_sample)
        self._seconds: dict[tuple[str, ...], float | None] = {}

    def seconds(self, item: AnyItem) -> float | None:
        """Return the seconds that an item is expected to take, None if that cannot be told."""
        labels = timing_labels(item)
        if labels not in self._seconds:
            self._seconds[labels] = self._estimate(item)
        return self._seconds[labels]

    def _estimate(self, item: AnyItem) -> float | None:
        match item:
            case Surrogate():
                return self._surrogate_seconds(item)
            case Poison():
                return self._poison_seconds(item)
            case Purified():
                return self._purified_seconds(item)
            case Cell():
                return self._cell_seconds(item)

    def measure_networks(self, cells: Iterable[Cell]) -> None:
        """Measure the victims' networks first: most of a run's time depends on them."""
        counts = Counter((cell.backbone, dataset_of(cell)) for cell in cells)
        for (backbone, dataset), _ in counts.most_common():
            if self._spent_s < NETWORKS_SHARE * self._budget_s and self._facts(dataset) is not None:
                self._step(backbone, dataset)

    def keep(self) -> None:
        """Write new measurements to the cache folder, if it can be written to."""
        # A dataset that cannot be read now may be there the next time.
        found = {
            key: value
            for key, value in self._measured.items()
            if value is not None or not key.startswith("dataset ")
        }
        if len(found) > self._stored:
            with contextlib.suppress(BenchError):
                write_atomically(self._path, json.dumps(found))

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(require_file(self._path).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _measure(self, measure: Callable[[], Any], *names: str) -> Any:
        """Return a measurement by its names; None if there is no time left for it, or if it fails."""
        key = " ".join(names)
        if key not in self._measured and self._spent_s >= self._budget_s:
            self.is_complete = False
        elif key not in self._measured:
            clock = probes.busy_clock(self._run_context)
            started = clock()
            with _few_threads(self._run_context.threads):
                try:
                    self._measured[key] = measure()
                except (Exception, SystemExit):  # a part from outside may raise anything; a run says what
                    self._measured[key] = None
            self._spent_s += clock() - started
        return self._measured.get(key)

    def _take_sample(self, dataset: ChosenPart[Dataset]) -> DatasetSample:
        return take_sample(dataset.part, self._run_context)

    def _facts(self, dataset: ChosenPart[Dataset]) -> Any:
        """Return `DatasetSample.facts`."""
        root = str(self._run_context.data_root)
        return self._measure(lambda: self._sample(dataset).facts(), "dataset", _name(dataset), root)

    def _step(self, backbone: ChosenPart[Any] | None, dataset: ChosenPart[Dataset]) -> Any:
        """Return the seconds of a step without images and those of an image; of a small network if None."""
        shape = " ".join(map(str, self._facts(dataset)["shape"]))

        def measure() -> tuple[float, float]:
            data = self._sample(dataset).data
            part = probes.small_backbone(data) if backbone is None else backbone.part
            return probes.time_steps(part, data, self._run_context)

        return self._measure(measure, "step", _name(backbone) if backbone else "small", shape)

    def _factor(self, axis: str, cell: Cell) -> float:
        """Return how much longer a step takes with a weighting or a defense, measured with a small network.

        That of another dataset if it was not measured with this one; 1 if with none.
        """
        chosen, dataset = getattr(cell, axis), dataset_of(cell)
        if chosen.name == PLAIN[axis]:
            return 1.0

        def time_step(**changes: Any) -> float:
            data = self._sample(dataset).data
            victim = replace(probes.undefended_victim(probes.small_backbone(data)), **changes)
            return probes.time_step(victim, data, self._run_context)

        plain = self._measure(time_step, "plain", _name(dataset))
        changed = self._measure(lambda: time_step(**{axis: chosen.part}), axis, _name(chosen), _name(dataset))
        if plain and changed:
            return float(changed / plain)
        for names in (name.split(" ") for name in self._measured):
            if names[:2] == [axis, _name(chosen)] and (plain := self._measured.get(f"plain {names[2]}")):
                return float((self._measured[" ".join(names)] or plain) / plain)
        return 1.0

    def _elsewhere(self, *names: str) -> Any:
        """Return a measurement whose name begins with these, None if there is none."""
        key = " ".join((*names, ""))
        return next((each for name, each in self._measured.items() if name.startswith(key) and each), None)

    def _pass_seconds(
        self, backbone: ChosenPart[Any], dataset: ChosenPart[Dataset], images: float, batch: int
    ) -> float | None:
        """Return the seconds of a pass over a number of images that trains a network."""
        if self._facts(dataset) is None or (step := self._step(backbone, dataset)) is None:
            return None
        return float(images / batch * step[0] + images * step[1] * self._facts(dataset)["crop"])

    def _surrogate_seconds(self, item: Surrogate) -> float | None:
        facts, recipe = self._facts(item.dataset), item.recipe
        once = facts and self._pass_seconds(item.backbone, item.dataset, facts["train"], recipe.batch)
        return once and recipe.epochs * once

    def _poison_seconds(self, item: Poison) -> float | None:
        dataset, attack = item.dataset, item.attack
        if (facts := self._facts(dataset)) is None:
            return None

        def measure() -> dict[str, float]:
            data = self._sample(dataset).data
            return asdict(probes.probe_crafting(attack.part, item.budget, data, self._run_context))

        found = self._measure(measure, "craft", _name(attack), _name(dataset))
        found = found or self._elsewhere("craft", _name(attack))
        small = self._step(None, dataset)
        if not found or small is None:
            return None
        craft, count = probes.CraftingProbe(**found), facts["train"]
        batch = min(count, getattr(attack.part, "batch", None) or USUAL_BATCH)
        if not craft.passes:
            once = craft.rounds * count + craft.steps * batch if craft.rounds or craft.steps else count
            return float(craft.fixed_s + craft.image_s * once * facts["image"])
        steps_per_round = math.ceil(count / batch)
        steps = craft.steps + craft.rounds * steps_per_round
        batches = steps * craft.passes + steps / steps_per_round * craft.round_batches
        networks = self._pass_seconds(item.surrogate.backbone, dataset, batches * batch, batch)
        if networks is None:
            return None
        own = craft.image_s - craft.passes * (small[0] / probes.BATCH + small[1])
        return float(networks + max(0.0, own) * facts["image"] * steps * batch)

    def _purified_seconds(self, item: Purified) -> float | None:
        dataset, defense = item.poison.dataset, item.defense
        if (facts := self._facts(dataset)) is None:
            return None

        def measure() -> float:
            return probes.probe_cleaning(defense.part, self._sample(dataset).data, self._run_context)

        cleaning = self._measure(measure, "clean", _name(defense), _name(dataset))
        published = facts["train"] * (1 - defense.part.trusted)
        return cleaning and float(cleaning * published * facts["image"])

    def _cell_seconds(self, item: Cell) -> float | None:
        dataset, defense, recipe = dataset_of(item), item.defense.part, item.recipe
        if (facts := self._facts(dataset)) is None:
            return None
        once = self._pass_seconds(item.backbone, dataset, facts["train"], recipe.batch)
        regime = self._regime(item)
        if once is None:
            return None
        epochs = recipe.epochs
        if regime["tasks"] == 1 and recipe.stl_epochs is not None:
            epochs = recipe.stl_epochs
        training, before = epochs * regime["factor"], 0.0
        if isinstance(item.regime.part, PretrainingRegime):
            before = item.regime.part.pretraining_epochs(recipe) * regime["pretraining"]
        elif defense.trusted:
            before = training
        if before:
            before *= defense.trusted or 1.0
            training *= FROZEN
        training *= self._factor("weighting", item) * self._factor("defense", item)
        scored = facts["test"] / facts["train"] + defense.validation
        return float(once * (training + before + FROZEN * epochs * regime["networks"] * scored))

    def _regime(self, item: Cell) -> dict[str, float]:
        """Return `probes.time_regime`; of the regime mtl if it cannot be measured."""
        dataset = dataset_of(item)

        def measure() -> dict[str, float]:
            plain = probes.undefended_victim(item.backbone.part)
            victim = replace(plain, regime=item.regime.part)
            return probes.time_regime(victim, self._sample(dataset).data, self._run_context)

        plain = {"factor": 1.0, "pretraining": 0.0, "networks": 1, "tasks": math.inf}
        if item.regime.name == "mtl":
            return plain
        found = self._measure(measure, "regime", _name(item.regime), _name(item.backbone), _name(dataset))
        return found or self._elsewhere("regime", _name(item.regime)) or plain


def _name(chosen: ChosenPart[Any]) -> str:
    """Return a part as measurements name it: with everything that can change its speed."""
    return f"{chosen.name}-{hash_json(chosen.settings())[:12]}"


@contextlib.contextmanager
def _few_threads(count: int) -> Iterator[None]:
    """Compute with as many CPU threads as a worker does."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
