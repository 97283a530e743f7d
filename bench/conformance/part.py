"""A part under test, and what a check of it is."""

import dataclasses
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import api
from bench.catalog.build import build_part, load_part_class
from bench.catalog.choice import Choice
from bench.catalog.parts import locate_part
from bench.errors import BenchError

CPU = torch.device("cpu")

PROTOCOLS: Mapping[str, type] = {
    "dataset": api.Dataset,
    "attack": api.Attack,
    "backbone": api.Backbone,
    "weighting": api.Weighting,
    "defense": api.Defense,
    "regime": api.Regime,
}
"""Axis → the protocol of its parts."""


class ContractError(Exception):
    """A breach of the contract: one sentence on what is wrong."""


class NoResultError(Exception):
    """There is nothing to check, since another check fails."""


def build_quick_part(axis: str, choice: Choice | str) -> Any:
    """Build a part with its ``quick_params``, if it has them, as defaults below those of the choice."""
    choice = Choice.parse(choice) if isinstance(choice, str) else choice
    return build_part(axis, choice, quick_params(axis, choice))


def quick_params(axis: str, choice: Choice) -> Mapping[str, Any]:
    """Return a part's class variable ``quick_params``; empty if it has none, and for several parts."""
    params: Mapping[str, Any] = {}
    return params if choice.parts else getattr(load_part_class(axis, choice.name), "quick_params", params)


class PartUnderTest:
    """A part, built with its quick parameters unless the choice has others.

    Attributes:
        axis: the part's axis.
        choice: the part's name and parameters.
        part: the part.
        kind: its class.
        quick_params: the quick parameters that it was built with.
    """

    axis: str

    def __init__(self, axis: str, choice: Choice | str) -> None:
        """Build the part.

        Raises:
            BenchError: for an unknown name or parameter, and if the part is not a dataclass.
        """
        self.axis = axis
        self.choice = Choice.parse(choice) if isinstance(choice, str) else choice
        if not self.choice.parts:
            kind = load_part_class(axis, self.choice.name)
            if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
                where = locate_part(axis, self.choice.name)
                raise BenchError(
                    f"{axis} {self.choice.name!r}: {where} is not a dataclass, which every part must be"
                )
        chosen = dict(self.choice.params)
        quick = quick_params(axis, self.choice)
        self.quick_params = {name: value for name, value in quick.items() if name not in chosen}
        self.part: Any = build_part(axis, self.choice, self.quick_params)
        self.kind: Any = type(self.part)

    def reason_to_skip(self, case: str) -> str | None:
        """Return why no check of this part applies to a case; None if they do."""
        return None

    def describe_error(self, error: Exception | SystemExit) -> str:
        """Return an error's message; for one that is not meant for users also its type and place."""
        message = " ".join(str(error).split())
        if isinstance(error, ContractError | BenchError):
            return message
        frames, own_file = traceback.extract_tb(error.__traceback__), inspect.getfile(self.kind)
        frame = next((frame for frame in reversed(frames) if frame.filename == own_file), frames[-1])
        return f"{type(error).__name__}: {message} ({Path(frame.filename).name}, line {frame.lineno})"


@dataclass(frozen=True)
class Check:
    """One clause of a contract.

    Attributes:
        name: what it asks of the part.
        run: raises an error if the part fails; returns why the check does not apply, None if it does.
        cases: names of the cases that it is run on; empty if it needs none.
    """

    name: str
    run: Callable[[Any, str], str | None]
    cases: tuple[str, ...] = ()
