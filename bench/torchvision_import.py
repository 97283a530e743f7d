"""The only door to torchvision: its modules by name (``vision.models``), imported when they are first used.

Whoever imports a library that imports torchvision opens the door before.

torchvision's compiled operators belong to one build of torch. Beside another build of the same release
(a CPU-only torch, say) they do not load, and importing torchvision stops at the first operator it wants to
describe. Models, datasets and transforms need none of them, so the two operators' schemas are declared
here, only then, and the import goes through; calling ``nms`` still fails, as it should.
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
_declared: list[torch.library.Library] = []  # a library's definitions live as long as the object


@cache
def import_torchvision() -> None:
    """Import torchvision, whatever build of torch it finds."""
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
    """Import all that is behind the door, before something is timed in which it would be imported."""
    for name in _MODULES:
        __getattr__(name)


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_torchvision()
    return importlib.import_module(_MODULES[name])
