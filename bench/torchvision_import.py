"""The only module that imports torchvision: ``torchvision_import.models`` and others, imported on first use.

A module that imports a library that imports torchvision must call `import_torchvision` before.

torchvision's compiled operators belong to one build of torch. With another build of the same release (such as
a CPU-only torch) they do not load, and importing torchvision fails at the first operator that it describes.
Models, datasets and transforms do not need these operators. So in this case the schemas of the two operators
are declared here, and the import succeeds; calling ``nms`` still fails, as it should.
"""

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Final

import torch

_SCHEMAS: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_MODULES: Final = {
    "datasets": "torchvision.datasets",
    "functional": "torchvision.transforms.v2.functional",
    "models": "torchvision.models",
    "transforms": "torchvision.transforms.v2",
}
_declared: list[torch.library.Library] = []  # definitions exist as long as this object


@cache
def import_torchvision() -> None:
    """Import torchvision with any build of torch."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS.values():
            library.define(schema)
        _declared.append(library)
        import torchvision  # noqa: F401


def import_submodules() -> None:
    """Import all of torchvision that is used here, so that no timed code has to import it."""
    for name in _MODULES:
        __getattr__(name)


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_torchvision()
    return importlib.import_module(_MODULES[name])
