"""Parts of a test in the catalog."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.catalog.parts import CATALOG, catalog_entries


@contextmanager
def parts_in_catalog(*parts: tuple[str, str, type]) -> Iterator[None]:
    """Add parts, each an axis, a name and a class at the top of its module, while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        for axis, name, part in parts:
            patch.setitem(CATALOG[axis], name, f"{part.__module__}:{part.__name__}")
        catalog_entries.cache_clear()
        yield
    catalog_entries.cache_clear()
