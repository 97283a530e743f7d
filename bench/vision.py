"""The only door to torchvision: import this module before torchvision, or a library that imports it.

torchvision's compiled operators belong to one build of torch. Beside another build of the same release
(a CPU-only torch, say) they do not load, and importing torchvision stops at the first operator it wants to
describe. Models, datasets and transforms need none of them, so the two operators' schemas are declared
here, only then, and the import goes through; calling ``nms`` still fails, as it should.
"""

import sys
from typing import Final

import torch

_SCHEMAS: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a library's definitions live as long as the object


def _import_torchvision() -> None:
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


_import_torchvision()
