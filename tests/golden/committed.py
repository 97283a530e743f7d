"""Comparison with committed files."""

import os
from pathlib import Path

HERE = Path(__file__).parent


def expect(name: str, text: str) -> None:
    """Assert that a text is the committed one; with ``MTLUE_UPDATE_GOLDEN=1`` write it anew."""
    path = HERE / name
    if os.environ.get("MTLUE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
