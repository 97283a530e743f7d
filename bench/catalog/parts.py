"""The catalog: every part by its name. A new part is one file, and one line in `CATALOG`.

A class is imported only when its part is used, so that listing the catalog imports neither parts nor torch.
Installed packages add parts through entry points in the group ``mtlue_bench.AXIS``.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points

from bench.errors import describe_error, unknown_name_error

logger = logging.getLogger("bench")

CATALOG: dict[str, dict[str, str]] = {
    "dataset": {
        "digits": "bench.datasets.digits:Digits",
        "celeba": "bench.datasets.celeba:CelebA",
        "chestxray14": "bench.datasets.chestxray14:ChestXray14",
        "cifar10": "bench.datasets.cifar:CIFAR10",
        "cifar100": "bench.datasets.cifar:CIFAR100",
        "folder": "bench.datasets.folder:Folder",
        "nyuv2": "bench.datasets.nyuv2:NYUv2",
        "scenes": "bench.datasets.scenes:Scenes",
        "svhn": "bench.datasets.svhn:SVHN",
        "utkface": "bench.datasets.utkface:UTKFace",
    },
    "attack": {
        "clean": "baselines.clean:Clean",
        "random": "baselines.random_noise:ClasswiseRandom",
        "random-samplewise": "baselines.random_noise:SamplewiseRandom",
        "lsp": "baselines.lsp:LSP",
        "lsp-l2": "baselines.lsp:LSPL2",
        "ar": "baselines.ar:AR",
        "ar-l2": "baselines.ar:ARL2",
        "ops": "baselines.ops:OPS",
        "cuda": "baselines.cuda:CUDA",
        "em": "baselines.em:EM",
        "em-classwise": "baselines.em:ClasswiseEM",
        "rem": "baselines.rem:REM",
        "tap": "baselines.tap:TAP",
        "tap-untargeted": "baselines.tap:UntargetedTAP",
        "sep": "baselines.sep:SEP",
        "sep-fa": "baselines.sep:FeatureAlignedSEP",
        "sep-fa-vr": "baselines.sep:VarianceReducedSEP",
        "pil": "baselines.pil:PIL",
        "uc": "baselines.uc:UC",
        "mtl-ue-em": "mtlue.attack:MTLUEEM",
        "mtl-ue-tap": "mtlue.attack:MTLUETAP",
        "mtl-ue-sep": "mtlue.attack:MTLUESEP",
    },
    "backbone": {
        "resnet18": "bench.backbones.resnet:ResNet18",
        "resnet50": "bench.backbones.resnet:ResNet50",
        "vgg16": "bench.backbones.vgg:VGG16",
        "densenet121": "bench.backbones.densenet:DenseNet121",
        "vit-b16": "bench.backbones.vit:ViTB16",
        "small": "bench.backbones.small:Small",
        "small-attention": "bench.backbones.small_attention:SmallAttention",
        "small-residual": "bench.backbones.small_residual:SmallResidual",
        "dilated-resnet18": "bench.backbones.dense:DilatedResNet18",
        "dilated-resnet50": "bench.backbones.dense:DilatedResNet50",
        "dense-small": "bench.backbones.dense:DenseSmall",
    },
    "weighting": {
        "ew": "bench.weightings.ew:EqualWeights",
        "uw": "bench.weightings.uw:UncertaintyWeights",
        "dwa": "bench.weightings.dwa:DynamicWeightAverage",
        "rlw": "bench.weightings.rlw:RandomWeights",
        "gls": "bench.weightings.gls:GeometricMean",
        "stch": "bench.weightings.stch:SmoothTchebycheff",
        "imtl-l": "bench.weightings.imtl_l:ImpartialLosses",
        "famo": "bench.weightings.famo:FAMO",
        "gradnorm": "bench.weightings.gradnorm:GradNorm",
        "graddrop": "bench.weightings.graddrop:GradDrop",
        "pcgrad": "bench.weightings.torchjd_rules:PCGrad",
        "gradvac": "bench.weightings.gradient:GradVac",
        "mgda": "bench.weightings.unit_gradients:MGDA",
        "cagrad": "bench.weightings.unit_gradients:CAGrad",
        "imtl-g": "bench.weightings.unit_gradients:ImpartialGradients",
        "imtl": "bench.weightings.imtl:ImpartialLearning",
        "excess-mtl": "bench.weightings.excess_mtl:ExcessRisks",
        "db-mtl": "bench.weightings.db_mtl:DualBalancing",
        "nash-mtl": "bench.weightings.torchjd_rules:NashMTL",
        "fairgrad": "bench.weightings.torchjd_rules:FairGrad",
        "aligned-mtl": "bench.weightings.unit_gradients:AlignedMTL",
        "upgrad": "bench.weightings.unit_gradients:UPGrad",
        "config": "bench.weightings.unit_gradients:ConFIG",
    },
    "defense": {
        "none": "bench.defenses.none:NoDefense",
        "jpeg": "bench.defenses.jpeg:JPEG",
        "grayscale": "bench.defenses.grayscale:Grayscale",
        "adversarial": "bench.defenses.adversarial:Adversarial",
        "early-stopping": "bench.defenses.early_stopping:EarlyStopping",
        "linear-probe": "bench.defenses.linear_probe:LinearProbe",
        "orthogonal-projection": "bench.defenses.orthogonal_projection:OrthogonalProjection",
        "d-vae": "bench.defenses.d_vae:DVAE",
        "bit-depth": "bench.defenses.bit_depth:BitDepth",
        "posterize": "bench.defenses.bit_depth:Posterize",
        "gaussian-blur": "bench.defenses.filters:GaussianBlur",
        "median": "bench.defenses.filters:Median",
        "resize": "bench.defenses.filters:Resize",
        "gaussian-noise": "bench.defenses.gaussian_noise:GaussianNoise",
        "cutout": "bench.defenses.cutout:Cutout",
        "mixup": "bench.defenses.mixing:Mixup",
        "cutmix": "bench.defenses.mixing:CutMix",
        "randaugment": "bench.defenses.randaugment:RandomAugment",
        "ueraser-lite": "bench.defenses.ueraser:UEraserLite",
        "ueraser": "bench.defenses.ueraser:UEraser",
        "ueraser-max": "bench.defenses.ueraser:UEraserMax",
    },
    "regime": {
        "mtl": "bench.regimes.mtl:MultiTask",
        "stl": "bench.regimes.stl:SingleTask",
        "cross-stitch": "bench.regimes.cross_stitch:CrossStitch",
        "mmoe": "bench.regimes.mmoe:MMoE",
        "mtan": "bench.regimes.mtan:MTAN",
        "contrastive": "bench.regimes.contrastive:Contrastive",
    },
}
"""Axis → name → ``module:class``. The order is that of "all" in suites."""

FAMILIES: dict[str, dict[str, str]] = {
    "backbone": {
        "timm": "bench.backbones.external:TimmModel",
        "torchvision": "bench.backbones.external:TorchvisionModel",
    },
}
"""Axis → family → ``module:class``: the class of ``FAMILY:MODEL``, with MODEL in its field ``model``."""

COMPOSED: dict[str, str] = {"defense": "bench.defenses.composed:Composed"}
"""Axis → the class that combines parts joined by ``+``. Parts of other axes cannot be combined."""

REQUIRED_VARIABLES = {
    "dataset": ("version", "recipe"),
    "attack": ("version", "needs_surrogate", "norm", "dense"),
    "backbone": ("version", "dense"),
    "weighting": ("version",),
    "defense": ("version", "dense"),
    "regime": ("version",),
}
"""Axis → the class variables that its parts must have."""

REPLACED_VARIABLES = {
    "norm": ("bounded", 'write norm = "linf", or norm = None where bounded was False'),
}
"""Class variable → the one that it has replaced, and how."""


def catalog_axes() -> tuple[str, ...]:
    """Return the axes that have parts: all but the seed."""
    return tuple(CATALOG)


@cache
def catalog_entries(axis: str) -> Mapping[str, str]:
    """Return name → ``module:class`` of an axis, with the parts of installed packages.

    Raises:
        BenchError: for an unknown axis.
    """
    if axis not in CATALOG:
        raise unknown_name_error("axis", axis, CATALOG)
    group = f"mtlue_bench.{axis}"
    try:
        points = list(entry_points(group=group))
    except Exception:  # the list of some package is damaged
        points = list(_readable_entry_points(group))
    return {point.name: point.value for point in points} | CATALOG[axis]


def _readable_entry_points(group: str) -> Iterator[EntryPoint]:
    """Yield the entry points of every package, and warn of those whose list cannot be read."""
    for package in distributions():
        try:
            yield from package.entry_points.select(group=group)
        except Exception as error:
            logger.warning(
                "the entry points of the package %s cannot be read (%s); reinstall it",
                package.metadata["Name"],
                describe_error(error),
            )


def names_on_axis(axis: str) -> list[str]:
    """Return the names that an axis takes; a family is listed as ``FAMILY:MODEL``."""
    return [*catalog_entries(axis), *(f"{family}:MODEL" for family in FAMILIES.get(axis, ()))]


def locate_part(axis: str, name: str) -> str:
    """Return the ``module:class`` of a part.

    Raises:
        BenchError: for an unknown axis or name.
    """
    family, _, model = name.partition(":")
    if model and family in FAMILIES.get(axis, ()):
        return FAMILIES[axis][family]
    entries = catalog_entries(axis)
    if name not in entries:
        raise unknown_name_error(axis, name, names_on_axis(axis))
    return entries[name]
