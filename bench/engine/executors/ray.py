"""Work on the nodes of a Ray cluster, or of a Ray on this machine.

Every item is a Ray task, sent when a node has room for it. How much room there is follows from the nodes that
are alive at that moment: they may join and leave amid a run.
"""

import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.engine.executors.base import Outcome
from bench.engine.executors.remote import RemoteExecutor, RemoteTask, WorkerLostError
from bench.errors import BenchError

LISTEN_EVERY_S: Final = 0.2
"""How often the workers' words are fetched, and how closely a time limit is kept."""

Reference = ray.ObjectRef[Any]


class Ray(RemoteExecutor[Reference]):
    """Workers of a Ray cluster, ended when this process is."""

    def __init__(
        self,
        out: Path,
        address: str | None = None,
        jobs: int | None = None,
        threads: int = 1,
        gpus: float = 0,
        limit_s: float | None = None,
    ) -> None:
        """Take what a run asks of a cluster.

        Args:
            out: the run's folder, which all nodes share.
            address: the cluster's; None starts Ray on this machine, for as long as the block lasts.
            jobs: most items at a time; None means as many as there is room for.
            threads: CPU threads of a worker, each of them a CPU to Ray.
            gpus: GPUs of a worker; a fraction lets several share one.
            limit_s: seconds an item may take at most, from when a worker begins it.
        """
        super().__init__(out, threads, limit_s)
        self._address, self._jobs, self._gpus = address, jobs, gpus
        self._block = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as block:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._witness = self._folder / f".seen.{uuid.uuid4().hex}"
            self._witness.touch()
            block.callback(self._witness.unlink, missing_ok=True)
            block.callback(ray.shutdown)
            self._join()
            if not self._room():
                raise BenchError(
                    f"no node of the Ray cluster has {self._threads} CPUs and {self._gpus:g} GPUs; "
                    "`ray status` shows what there is, fewer --threads or --gpus ask for less"
                )
            # On this node, without which there is no run, so that no other one's death takes it along.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._words = Queue(
                actor_options={"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
            )
            self._serve = ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_retries=0)(_run_task)
            self._block = block.pop_all()
        return self

    def _join(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            cpus = None if self._jobs is None else self._jobs * self._threads
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        host, _, port = self._address.rpartition(":")
        try:
            if port.isdecimal():  # Ray itself would go on asking for ten minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(self._address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise BenchError(
                f"cannot join a Ray cluster at {self._address} ({str(error).splitlines()[0]}); "
                "`ray start` makes this machine a node of one; with tokens, RAY_AUTH_MODE=token is needed"
            ) from error

    def __exit__(self, *error: object) -> None:
        """Leave the cluster, which ends the workers, whatever they do."""
        self._under_way.clear()
        self._block.close()

    def _room(self) -> int:
        room = 0
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            has = node["Resources"] if node["Alive"] else {}
            workers = has.get("CPU", 0) // self._threads
            room += int(min(workers, has.get("GPU", 0) / self._gpus) if self._gpus else workers)
        return room if self._jobs is None else min(room, self._jobs)

    def _send(self, errands: list[RemoteTask]) -> list[Reference]:
        return [self._serve.remote(errand, self._words) for errand in errands]

    def _wait(self, handles: Collection[Reference]) -> list[Reference]:
        return ray.wait(list(handles), timeout=LISTEN_EVERY_S)[0]

    def _hear(self) -> Iterator[tuple[Any, Any]]:
        by_task = {reference.task_id().hex(): reference for reference in self._under_way}
        with contextlib.suppress(RayActorError):  # Ray starts it again: some progress is not shown
            for task, word in self._words.get_nowait_batch(self._words.size()):
                yield by_task.get(task), word

    def _fetch(self, handle: Reference) -> Outcome[Any, Any]:
        try:
            return ray.get(handle)
        except RayTaskError as error:
            if isinstance(error.cause, BenchError):
                raise error.cause from None
            raise BenchError(
                f"a Ray worker could not begin ({type(error.cause).__name__}: {error.cause}); "
                "all nodes need the same Python packages as this one"
            ) from error
        except RayError as error:
            raise WorkerLostError from error

    def _end(self, handle: Reference) -> None:
        ray.cancel(handle, force=True)


def _run_task(errand: RemoteTask, words: Queue) -> Outcome[Any, Any]:
    task = ray.get_runtime_context().get_task_id()

    def say(word: object) -> None:
        with contextlib.suppress(RayError):  # nobody listens: the work is none the worse
            words.put((task, word))

    return errand.run(say)
