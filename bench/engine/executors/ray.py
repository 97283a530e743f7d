"""Work on the nodes of a Ray cluster, or of a Ray on this machine.

Every item is a Ray task, submitted when a node has free CPUs and GPUs for it. The capacity follows from the
nodes that are alive at that moment: they may join and leave during a run.
"""

import contextlib
import logging
import os
import signal
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

from bench.engine.executors.base import Message, Outcome
from bench.engine.executors.remote import RemoteExecutor, RemoteTask, WorkerLostError
from bench.errors import BenchError

RECEIVE_EVERY_S: Final = 0.2
"""How often the workers' messages are fetched and time limits are checked."""

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
        """Configure the cluster; it is joined on entry.

        Args:
            out: the run's folder, which all nodes share.
            address: the cluster's address; None starts Ray on this machine, until the block ends.
            jobs: most items at a time; None means as many as the nodes can take.
            threads: CPU threads of a worker; Ray counts each as a CPU.
            gpus: GPUs of a worker; a fraction lets several share one.
            limit_s: most seconds an item may take, from when a worker starts it.
        """
        super().__init__(out, threads, limit_s)
        self._address, self._jobs, self._gpus = address, jobs, gpus
        self._block = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as block:
            self._out.mkdir(parents=True, exist_ok=True)
            self._shared_path = self._out / f".seen.{uuid.uuid4().hex}"
            self._shared_path.touch()
            block.callback(self._shared_path.unlink, missing_ok=True)
            block.callback(ray.shutdown)
            self._join()
            if not self._capacity():
                raise BenchError(
                    f"no node of the Ray cluster has {self._threads} CPUs and {self._gpus:g} GPUs; "
                    "`ray status` shows what the nodes have; lower --threads or --gpus to need less"
                )
            # The queue is on this node, so that the death of another node cannot end it.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._messages = Queue(
                actor_options={"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
            )
            self._run_task = ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_retries=0)(_run_task)
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
            if port.isdecimal():  # Ray itself would retry for ten minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(self._address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise BenchError(
                f"cannot join a Ray cluster at {self._address} ({str(error).splitlines()[0]}); "
                "`ray start` adds this machine to a cluster; one with tokens needs RAY_AUTH_MODE=token"
            ) from error

    def __exit__(self, *error: object) -> None:
        """Leave the cluster, which ends the workers at once."""
        self._in_flight.clear()
        self._block.close()

    def _capacity(self) -> int:
        capacity = 0
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            resources = node["Resources"] if node["Alive"] else {}
            workers = resources.get("CPU", 0) // self._threads
            capacity += int(min(workers, resources.get("GPU", 0) / self._gpus) if self._gpus else workers)
        return capacity if self._jobs is None else min(capacity, self._jobs)

    def _submit(self, tasks: list[RemoteTask]) -> list[Reference]:
        return [self._run_task.remote(task, self._messages) for task in tasks]

    def _wait(self, handles: Collection[Reference]) -> list[Reference]:
        return ray.wait(list(handles), timeout=RECEIVE_EVERY_S)[0]

    def _receive_messages(self) -> Iterator[tuple[Any, Message]]:
        by_task = {reference.task_id().hex(): reference for reference in self._in_flight}
        with contextlib.suppress(RayActorError):  # Ray restarts the queue: some progress is not shown
            for task_id, message in self._messages.get_nowait_batch(self._messages.size()):
                yield by_task.get(task_id), message

    def _fetch_outcome(self, handle: Reference) -> Outcome[Any, Any]:
        try:
            return ray.get(handle)
        except RayTaskError as error:
            if isinstance(error.cause, BenchError):
                raise error.cause from None
            raise BenchError(
                f"a Ray worker could not start ({type(error.cause).__name__}: {error.cause}); "
                "all nodes need the same Python packages as this machine"
            ) from error
        except RayError as error:
            raise WorkerLostError from error

    def _cancel(self, handle: Reference) -> None:
        ray.cancel(handle, force=True)


def _run_task(task: RemoteTask, messages: Queue) -> Outcome[Any, Any]:
    task_id = ray.get_runtime_context().get_task_id()
    # Ray's own handler raises an error while the item's code runs: the item would count as failed.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def send(message: Message) -> None:
        with contextlib.suppress(RayError):  # the work does not depend on its messages
            messages.put((task_id, message))

    return task.run(send)
