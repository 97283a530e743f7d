"""Open MLflow's store: the SQLite file in a run's folder, another database, or a server.

MLflow is imported when the first run is logged, and only in the process that runs the suite.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.files import hash_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Databases that MLflow can use."""

DAMAGE_MESSAGES = ("file is not a database", "database disk image is malformed")
"""What SQLite says about a damaged file."""

UNFINISHED_MESSAGES = ("already exists", "duplicate column name", "no such table", "no such column")
"""What SQLite says about a database whose tables were made in part, because the disk was full."""

MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is down must not delay a run: two short attempts instead of eight long ones.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment variables of MLflow; values that the user has set stay."""


def default_uri(out: Path) -> str:
    """Return the URI of the SQLite store in a run's folder."""
    path = str(out.absolute() / "mlflow.db")
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


def open_client(uri: str, artifact_folder: Path | None) -> "tuple[MlflowClient, str | None]":
    """Return a client of a store, and the URI of the folder for its artifacts; None if the store knows it.

    Args:
        uri: MLflow's tracking URI.
        artifact_folder: for the artifacts, if the store is a database; by default ``mlartifacts`` next to an
            SQLite file.
    """
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # Errors are raised too and reported in one sentence; what is created needs no message.
    for name in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # The client creates the tables of a new database, and fails if another process does so too.
    with _lock_store(uri):
        try:
            artifact_uri = _check_database(uri, artifact_folder)
            return MlflowClient(tracking_uri=uri, registry_uri=uri), artifact_uri
        except Exception as error:  # a store raises whatever its driver raises
            if not _empty_if_broken(uri, artifact_folder, error):
                raise
            artifact_uri = _check_database(uri, artifact_folder)
            return MlflowClient(tracking_uri=uri, registry_uri=uri), artifact_uri


def _check_database(uri: str, artifact_folder: Path | None) -> str | None:
    """Connect to a store that is a database, and return the URI for its artifacts; None for a server.

    MLflow itself tries for minutes to open a damaged database, and puts artifacts in the working directory.
    """
    from sqlalchemy import create_engine, inspect, make_url

    if urlsplit(uri).scheme.partition("+")[0] not in DATABASES:
        return None
    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        file = Path(url.database)
        file.parent.mkdir(parents=True, exist_ok=True)
        artifact_folder = artifact_folder or file.parent / "mlartifacts"
    engine = create_engine(url)
    try:
        inspect(engine)
    finally:
        engine.dispose()
    return artifact_folder.absolute().as_uri() if artifact_folder else None


@contextmanager
def _lock_store(uri: str) -> Iterator[None]:
    """Hold a lock that only one process of this user and machine can hold for a store."""
    path = Path(tempfile.gettempdir(), f"mtlue-{os.getuid()}-{hash_json(uri)[:16]}.lock")
    # All users may write there: a link is not followed, a pipe does not make it wait, and no file is emptied.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _empty_if_broken(uri: str, artifact_folder: Path | None, error: Exception) -> bool:
    """Empty the database of a run's folder if that is what the error is about: it can be made again.

    A copy is kept as ``mlflow.db.broken``. The file stays the same, since MLflow keeps it open.

    Returns:
        Whether it was emptied; no other database ever is.
    """
    if artifact_folder is None or uri != default_uri(artifact_folder.parent):
        return False
    if not any(message in str(error) for message in (*DAMAGE_MESSAGES, *UNFINISHED_MESSAGES)):
        return False
    database = artifact_folder.parent / "mlflow.db"
    shutil.copyfile(database, f"{database}.broken")
    for suffix in ("-journal", "-wal", "-shm"):  # an old journal would be applied to the new database
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    os.truncate(database, 0)
    return True
