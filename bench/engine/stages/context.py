"""The context of a run, in which every stage does its work."""

import contextlib
import hashlib
import os
import platform
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from bench import torchvision_import
from bench.api import (
    Dataset,
    MultiTaskData,
)
from bench.engine.stages.device import deterministic_algorithms
from bench.engine.stages.source_version import describe_source_version
from bench.engine.storage.store import Store
from bench.training.augmentation import cropped_shape
from bench.values import Progress, Shape, Split


@dataclass(frozen=True)
class RunContext:
    """Where work is done.

    Attributes:
        out: the run's folder.
        data_root: where the datasets are.
        cache: where their decoded images are kept, for all runs.
        device: where to compute.
        threads: CPU threads of one worker.
        suite: the suite's name.
        deterministic: whether CUDA is to give the same bits every time; a CPU does in any case.
    """

    out: Path
    data_root: Path | None
    cache: Path
    device: str
    threads: int
    suite: str
    deterministic: bool = False

    @property
    def store(self) -> Store:
        """The run's folder."""
        return Store(self.out)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.device)


LIBRARIES = ("mtlue-bench", "torch", "torchvision", "torchjd", "kornia", "numpy")
"""What a record notes the version of."""

Item = TypeVar("Item")

R = TypeVar("R")

Work = Callable[[Item, RunContext, Progress], R]


def with_run_context(work: Work[Item, R]) -> Work[Item, R]:
    """Have work done as the run_context asks its device to compute, with nothing left to import."""

    @wraps(work)
    def done(item: Item, run_context: RunContext, progress: Progress) -> R:
        _import_late()
        with deterministic_algorithms(run_context.deterministic and run_context.torch_device.type == "cuda"):
            return work(item, run_context, progress)

    return done


@cache
def _import_late() -> None:
    """Import what parts import only where they use it: no phase is to be billed for that."""
    import bench.tasks.metrics  # noqa: F401

    torchvision_import.import_submodules()


def pieces_note(pieces: int) -> dict[str, int]:
    """Return what a record's environment says of batches that were too large for the device's memory."""
    return {"batch_pieces": pieces} if pieces > 1 else {}


@lru_cache(maxsize=2)
def _load_once(part: Hashable, root: Path | None, cache: Path) -> MultiTaskData:
    return cast("Dataset", part).load(root, cache)


def load_dataset(part: Dataset, run_context: RunContext) -> MultiTaskData:
    """Load a dataset, once per process."""
    return _load_once(cast("Hashable", part), run_context.data_root, run_context.cache)


def network_input_shape(data: MultiTaskData) -> Shape:
    """Return the shape [c h w] of the images networks are trained on."""
    channels, height, width = data.train.images.shape[1:]
    return cropped_shape((channels, height, width), data.augmentation)


@lru_cache(maxsize=4)
def hash_split(split: Split) -> str:
    """Return a hash of a split's images and labels, to tell one set of files from another."""
    content = hashlib.sha256()
    for chunk in split.images.split(1024):
        content.update(chunk.contiguous().numpy().data)
    for name in sorted(split.targets):
        content.update(split.targets[name].contiguous().numpy().data)
    return content.hexdigest()[:16]


@contextlib.contextmanager
def seeded(phase: str, seed: int) -> Iterator[None]:
    """Seed every generator for one phase, so that its randomness does not depend on what ran before."""
    number = int.from_bytes(hashlib.sha256(f"{phase}/{seed}".encode()).digest()[:8], "big") % 2**63
    with torch.random.fork_rng():
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002 - libraries draw from it
        yield


def describe_environment(run_context: RunContext) -> dict[str, Any]:
    """Return what can change numbers or times without changing a setting."""
    device = run_context.torch_device
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        **describe_source_version(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": run_context.threads,
        "device": run_context.device,
        "deterministic": run_context.deterministic,
        # A machine that only hands work out needs no GPU itself.
        "device_name": torch.cuda.get_device_name(device)
        if on_gpu and torch.cuda.is_available()
        else torch.backends.cpu.get_cpu_capability(),
    }
