"""The places that can show records, by name."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.engine.tracking.mlflow_database import DAMAGE_MESSAGES, default_uri
from bench.engine.tracking.sink import Destination, Sink
from bench.errors import BenchError, unknown_name_error


def find_destinations(
    names: Sequence[str] | None, out: Path, tracking_uri: str | None = None
) -> list[Destination]:
    """Return destinations by their names, each once; nothing is opened yet.

    Args:
        names: the names; by default MLflow's.
        out: the folder of the run.
        tracking_uri: of MLflow; by default that of an SQLite file in the run's folder.

    Raises:
        BenchError: if a name is not known, or a library is missing.
    """
    names = list(dict.fromkeys(names or ("mlflow",)))
    for name in names:
        if name not in DESTINATIONS:
            raise unknown_name_error("tracker", name, DESTINATIONS)
    return [DESTINATIONS[name](out, tracking_uri) for name in names]


def _find_mlflow(out: Path, tracking_uri: str | None) -> Destination:
    uri = tracking_uri or default_uri(out)

    def connect() -> Sink:
        from bench.engine.tracking.mlflow_store import MLflowStore

        return MLflowStore(uri, out / "mlartifacts")

    advice = dict.fromkeys(DAMAGE_MESSAGES, "move the file away")
    return Destination(f"MLflow at {uri}", connect, uri, advice)


def _find_tensorboard(out: Path, _: str | None) -> Destination:
    _require_extra("tensorboard", "TensorBoard")
    folder = out / "tensorboard"

    def connect() -> Sink:
        from bench.engine.tracking.tensorboard_sink import TensorBoardSink

        return TensorBoardSink(folder)

    return Destination("TensorBoard", connect, str(folder))


def _find_wandb(out: Path, _: str | None) -> Destination:
    _require_extra("wandb", "W&B")

    def connect() -> Sink:
        from bench.engine.tracking.wandb_sink import WandbSink

        return WandbSink(out)

    return Destination("W&B", connect, "W&B")


DESTINATIONS: dict[str, Callable[[Path, str | None], Destination]] = {
    "mlflow": _find_mlflow,
    "tensorboard": _find_tensorboard,
    "wandb": _find_wandb,
}


def _require_extra(module: str, name: str) -> None:
    if find_spec(module) is None:
        raise BenchError(f"{name} is not installed; `pip install 'mtlue-bench[{module}]'` installs it")
