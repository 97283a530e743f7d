"""What options mean for a run: its plan, its folders, its device and its executor."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.run_folder import RUNS
from bench.errors import BenchError
from bench.text import escape_bytes

if TYPE_CHECKING:
    from bench.engine.executors.base import Executor
    from bench.engine.planning.expand import Plan
    from bench.engine.stages.context import RunContext

CLUSTERS = ("ray", "slurm")
"""Executors whose workers run on other machines."""


def plan_run(
    suite: str,
    only: Sequence[str] | None,
    settings: Sequence[str] | None,
    out: Path | None,
    data_root: Path | None,
    cache: Path | None,
    device: str,
    on_cluster: bool = False,
    **how: Any,
) -> "tuple[Plan, RunContext]":
    """Return the plan of a suite and the context it runs in; ``how`` goes to `RunContext`.

    Raises:
        BenchError: for a wrong option, or a folder that a run may not use or cannot write to.
    """
    from bench.engine.planning.estimate import check_cache
    from bench.engine.planning.expand import expand_suite
    from bench.engine.planning.suite_file import read_suite
    from bench.engine.stages.context import RunContext

    root, folder = resolve_data_root(data_root), str((out or RUNS).absolute())
    if folder != escape_bytes(folder):  # safetensors and SQLite take no other path
        raise BenchError(f"the path of the output folder, {folder!r}, is not UTF-8; give another --out")
    plan = expand_suite(read_suite(suite, settings or ()), only or (), data_root)
    context = RunContext(
        out=(out or RUNS / plan.suite).absolute(),
        data_root=root,
        cache=resolve_cache(cache),
        device=resolve_device(device, on_cluster),
        suite=plan.suite,
        **{"threads": 1, **how},
    )
    context.store.check_ownership()
    if not on_cluster:  # each node has a cache of its own
        check_cache(plan, context)
    return plan, context


def resolve_data_root(data_root: Path | None) -> Path | None:
    """Return the folder with the datasets as an absolute path.

    Raises:
        BenchError: if it does not exist.
    """
    if data_root is not None and not data_root.is_dir():
        raise BenchError(f"there is no data root {data_root}")
    return None if data_root is None else data_root.resolve()


def resolve_cache(cache: Path | None) -> Path:
    """Return the folder for decoded images: the given one, or one in the user's cache folder."""
    from platformdirs import user_cache_path

    return (cache or user_cache_path("mtlue-bench")).absolute()


def resolve_device(device: str, on_cluster: bool) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises:
        BenchError: for a CUDA device that does not exist.
    """
    import torch

    if on_cluster and device == "cuda":  # the machine that submits the work needs no GPU
        return "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise BenchError("this torch finds no CUDA device; give --device cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def count_workers(jobs: int | None, device: str) -> int:
    """Return the number of local workers: the given one, or one per GPU or CPU core."""
    if jobs:
        return jobs
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_executor(
    name: str, jobs: int | None, context: "RunContext", time_limit: float | None
) -> "Executor":
    """Return the executor that runs work on this machine.

    Raises:
        BenchError: for a time limit without workers.
    """
    from bench.engine.executors.inline import Inline
    from bench.engine.executors.processes import Processes, assign_gpus

    count = count_workers(jobs, context.device)
    if name == "inline" and time_limit is not None:
        raise BenchError("--time-limit needs workers that can be stopped; give --executor processes")
    if name == "inline" or (name == "auto" and count == 1 and time_limit is None):
        return Inline(context.threads)
    gpus: list[str] = []
    if context.device == "cuda":
        from bench.engine.stages.device import free_gpu_memory

        gpus = assign_gpus(free_gpu_memory(), count)
    return Processes(count, context.threads, time_limit, gpus)


def cluster_executor(
    name: str,
    jobs: int | None,
    context: "RunContext",
    time_limit: float | None,
    address: str | None,
    gpus: float | None,
    slurm: Sequence[str],
) -> "Executor":
    """Return the executor that runs work on a Ray or Slurm cluster.

    Raises:
        BenchError: if its package is not installed, or for an option of Slurm without a value.
    """
    on_gpu = context.device == "cuda"
    wrong = [option for option in slurm if not all(option.partition("="))]
    if wrong:
        raise BenchError(f"--slurm {wrong[0]} has no value; give KEY=VALUE, such as partition=long")
    options = {key: value for key, _, value in (option.partition("=") for option in slurm)}
    if on_gpu and not any(key.startswith(("gpus", "gres")) for key in options):
        options["gpus-per-node"] = "1"
    try:
        if name == "ray":
            from bench.engine.executors.ray import Ray

            share = float(on_gpu) if gpus is None else gpus
            return Ray(context.out, address, jobs, context.threads, share, time_limit)
        from bench.engine.executors.slurm import Slurm

        return Slurm(context.out, options, jobs, context.threads, time_limit)
    except ModuleNotFoundError as error:
        raise BenchError(
            f"--executor {name} needs the package {error.name}; pip install 'mtlue-bench[{name}]'"
        ) from error
