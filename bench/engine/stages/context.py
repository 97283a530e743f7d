"""The context of a run, which every stage works in."""

import contextlib
import hashlib
import os
import platform
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bench import torchvision_import
from bench.api import MultiTaskData
from bench.engine.stages.device import deterministic_algorithms
from bench.engine.stages.source_version import describe_source_version
from bench.engine.storage.store import Store
from bench.training.augmentation import cropped_shape
from bench.values import Precision, Progress, Shape


@dataclass(frozen=True)
class RunContext:
    """What all stages of a run share.

    Attributes:
        out: the run's folder.
        data_root: the folder of the datasets.
        cache: the folder of their decoded images, for all runs.
        device: where to compute.
        threads: CPU threads of one worker.
        suite: the suite's name.
        deterministic: whether CUDA must give the same bits every time; a CPU always does.
        precision: what networks multiply in.
        compile: whether the encoders of networks are compiled.
        keep_images: whether a few images are kept with every poison, to be looked at.
    """

    out: Path
    data_root: Path | None
    cache: Path
    device: str
    threads: int
    suite: str
    deterministic: bool = False
    precision: Precision = "float32"
    compile: bool = False
    keep_images: bool = True

    @property
    def store(self) -> Store:
        """The files in the run's folder."""
        return Store(self.out)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.device)


LIBRARIES = ("mtlue-bench", "torch", "torchvision", "torchjd", "kornia", "numpy")
"""Packages whose versions a record lists."""

Item = TypeVar("Item")
R = TypeVar("R")
Work = Callable[[Item, RunContext, Progress], R]


def with_run_context(work: Work[Item, R]) -> Work[Item, R]:
    """Make a stage compute as the run context says, with all lazy imports done before."""

    @wraps(work)
    def stage(item: Item, run_context: RunContext, progress: Progress) -> R:
        _import_lazy_modules()
        with deterministic_algorithms(run_context.deterministic and run_context.torch_device.type == "cuda"):
            return work(item, run_context, progress)

    return stage


@cache
def _import_lazy_modules() -> None:
    """Import what parts import only where they use it: the cost of a phase must not include imports."""
    torchvision_import.import_submodules()
    import kornia.augmentation  # noqa: F401

    import bench.tasks.metrics  # noqa: F401


def network_input_shape(data: MultiTaskData) -> Shape:
    """Return the shape [c h w] of the images that networks are trained on."""
    channels, height, width = data.train.images.shape[1:]
    return cropped_shape((channels, height, width), data.augmentation)


@contextlib.contextmanager
def seeded(phase: str, seed: int) -> Iterator[None]:
    """Seed all random generators for one phase, so that its draws do not depend on what ran before."""
    number = int.from_bytes(hashlib.sha256(f"{phase}/{seed}".encode()).digest()[:8], "big") % 2**63
    with torch.random.fork_rng():
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002 - libraries draw from it
        yield


def describe_environment(run_context: RunContext, pieces: int = 1) -> dict[str, Any]:
    """Return everything that can change numbers or times and is not a setting.

    Args:
        run_context: that of the stage.
        pieces: into how many pieces batches were split because the device's memory was too small for them.
    """
    device = run_context.torch_device
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **_library_versions(),
        **describe_source_version(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": run_context.threads,
        "device": run_context.device,
        "deterministic": run_context.deterministic,
        "precision": run_context.precision,
        "compile": run_context.compile,
        # The machine that only sends work to others needs no GPU.
        "device_name": torch.cuda.get_device_name(device)
        if on_gpu and torch.cuda.is_available()
        else torch.backends.cpu.get_cpu_capability(),
        **({"batch_pieces": pieces} if pieces > 1 else {}),
    }


@cache
def _library_versions() -> dict[str, str]:
    """Return name → version; each look-up reads files, and every item asks."""
    return {name: version(name) for name in LIBRARIES}
