"""Keep the parts that many records have in common once in memory."""

from collections.abc import Mapping
from typing import Any

import orjson

Pool = dict[bytes, Any]
"""JSON → the value. Records that are read with the same pool have equal parts in common."""


def share_parts(values: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    """Return the fields of a record; parts that a pool has already are the pool's.

    Most of a record is the same in many others: settings, tasks, the environment. In memory, ten thousand
    records are as large as four thousand that share nothing.
    """

    def share(value: Any) -> Any:
        return pool.setdefault(orjson.dumps(value), value)

    def share_each(part: Any) -> Any:
        return {name: share(value) for name, value in part.items()} if isinstance(part, dict) else part

    return {
        **values,
        "cell": share_each(values["cell"]),
        "settings": share_each(values["settings"]),
        "tasks": share(values["tasks"]),
        "environment": share(values["environment"]),
    }
