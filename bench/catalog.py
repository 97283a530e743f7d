"""The catalog: every part by its name. A new part is one file and one line here.

Names resolve lazily, so listing the catalog imports no part and no torch. Installed packages add parts
through entry points in the group ``mtlue_bench.AXIS``.
"""

import ast
import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError, unknown

ENTRY_POINTS = "mtlue_bench"

CATALOG: dict[str, dict[str, str]] = {
    "dataset": {
        "digits": "bench.datasets.digits:Digits",
        "celeba": "bench.datasets.celeba:CelebA",
        "chestxray14": "bench.datasets.chestxray14:ChestXray14",
        "cifar100": "bench.datasets.cifar100:CIFAR100",
        "folder": "bench.datasets.folder:Folder",
        "nyuv2": "bench.datasets.nyuv2:NYUv2",
        "scenes": "bench.datasets.scenes:Scenes",
        "utkface": "bench.datasets.utkface:UTKFace",
    },
    "attack": {
        "clean": "baselines.clean:Clean",
        "random": "baselines.random_noise:ClasswiseRandom",
        "random-samplewise": "baselines.random_noise:SamplewiseRandom",
        "lsp": "baselines.lsp:LSP",
        "ar": "baselines.ar:AR",
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
        "imtl-l": "bench.weightings.imtl_l:ImpartialLosses",
        "famo": "bench.weightings.famo:FAMO",
        "gradnorm": "bench.weightings.gradnorm:GradNorm",
        "graddrop": "bench.weightings.graddrop:GradDrop",
        "pcgrad": "bench.weightings.gradient:PCGrad",
        "gradvac": "bench.weightings.gradient:GradVac",
        "mgda": "bench.weightings.gradient:MGDA",
        "cagrad": "bench.weightings.gradient:CAGrad",
        "imtl-g": "bench.weightings.gradient:ImpartialGradients",
        "nash-mtl": "bench.weightings.gradient:NashMTL",
        "fairgrad": "bench.weightings.gradient:FairGrad",
        "aligned-mtl": "bench.weightings.gradient:AlignedMTL",
        "upgrad": "bench.weightings.gradient:UPGrad",
        "config": "bench.weightings.gradient:ConFIG",
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
        "mtl": "bench.regimes:MultiTask",
        "stl": "bench.regimes:SingleTask",
    },
}


FAMILIES: dict[str, dict[str, str]] = {
    "backbone": {
        "timm": "bench.backbones.by_name:TimmModel",
        "torchvision": "bench.backbones.by_name:TorchvisionModel",
    },
}
"""Axis → families of parts: ``FAMILY:MODEL`` is the one with that name in its field ``model``."""


COMPOSED: dict[str, str] = {"defense": "bench.defenses.composed:Composed"}
"""Axis → the part that several of its parts, joined by +, make together."""


REQUIRED = {
    "dataset": ("version", "recipe"),
    "attack": ("version", "needs_surrogate", "bounded", "dense"),
    "backbone": ("version", "dense"),
    "defense": ("version", "dense"),
}
"""Axis → class variables a part must have; of the other axes, ``version``."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A part as a suite names it: ``em`` or, with overrides, ``em(steps=5)``, or several, ``jpeg+cutmix``.

    Attributes:
        name: the part's; of several, their names joined.
        params: overrides; of several each has its own.
        parts: the several, in order; none where it is one.
    """

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    parts: tuple["Choice", ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Read ``name`` or ``name(key=value, ...)``, values in TOML's spelling or as bare words; or several.

        Raises:
            BenchError: when the text has another form.
        """
        if _SEVERAL.fullmatch(text):
            parts = tuple(map(cls.parse, _ONE.findall(text)))
            return cls("+".join(part.name for part in parts), parts=parts)
        match = re.fullmatch(r"\s*([\w.:-]+)\s*(?:\((.*)\))?\s*", text)
        if not match:
            raise BenchError(f"cannot read {text!r}; write a name, name(key=value, ...), or a+b")
        name, inner = match.groups()
        return cls(name, tuple(sorted(_read_params(inner or "", text).items())))

    @property
    def label(self) -> str:
        """The canonical spelling, which `parse` reads back."""
        if self.parts:
            return "+".join(part.label for part in self.parts)
        inner = ", ".join(f"{key}={_spell(value)}" for key, value in self.params)
        return f"{self.name}({inner})" if inner else self.name


_STRING = r'"(?:\\.|[^"\\])*"'
_ITEM = re.compile(rf'(?:{_STRING}|\[(?:{_STRING}|[^\]"])*\]|[^,"\[])+')
"""One ``key=value``: commas inside of strings and lists do not end it."""

_ONE = re.compile(rf'[\w.:-]+(?:\s*\((?:{_STRING}|[^"()])*\))?')
_SEVERAL = re.compile(rf"\s*{_ONE.pattern}\s*(?:\+\s*{_ONE.pattern}\s*)+")
"""Names, each with its parameters, joined by +; a + inside of parentheses joins nothing."""


def _read_params(inner: str, text: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for item in filter(None, (piece.strip() for piece in _ITEM.findall(inner))):
        key, equals, value = item.partition("=")
        if not equals:
            raise BenchError(f"cannot read {item!r} in {text!r}; write key=value")
        params[key.strip()] = read_value(value)
    return params


def read_value(text: str) -> Any:
    """Read a value in TOML's spelling (``3``, ``0.5``, ``true``, ``[1]``, ``"x"``), else as a bare word."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _spell(value: Any) -> str:
    """Spell a value so that `read_value` returns it."""
    if isinstance(value, str) and (read_value(value) != value or not re.fullmatch(r"[\w.:/-]+", value)):
        return _quote(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_quote(item) if isinstance(item, str) else _spell(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def axes() -> tuple[str, ...]:
    """Return the axes that have a shelf."""
    return tuple(CATALOG)


@cache
def entries(axis: str) -> Mapping[str, str]:
    """Return name → ``module:attribute`` of one axis, those of installed packages included.

    Raises:
        BenchError: for an unknown axis.
    """
    if axis not in CATALOG:
        raise unknown("axis", axis, CATALOG)
    outside = {point.name: point.value for point in entry_points(group=f"{ENTRY_POINTS}.{axis}")}
    return outside | CATALOG[axis]


def listed(axis: str) -> list[str]:
    """Return what can be named on an axis: its entries and, as ``FAMILY:MODEL``, its families."""
    return [*entries(axis), *(f"{family}:MODEL" for family in FAMILIES.get(axis, ()))]


def locate(axis: str, name: str) -> str:
    """Return the ``module:attribute`` of a part.

    Raises:
        BenchError: for an unknown axis or name.
    """
    family, _, model = name.partition(":")
    known = {name: FAMILIES[axis][family]} if model and family in FAMILIES.get(axis, ()) else entries(axis)
    if name not in known:
        raise unknown(axis, name, listed(axis))
    return known[name]


def load(axis: str, name: str) -> Any:
    """Import and return a part's class."""
    module, _, attribute = locate(axis, name).partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"cannot load {axis} {name!r} from {module}:{attribute}: {error}") from error


def make(axis: str, choice: Choice | str, defaults: Mapping[str, Any] | None = None) -> Any:
    """Build a part from its name and parameters, checked by name and by type.

    Args:
        axis: the shelf.
        choice: the part, with overrides, or several.
        defaults: overrides below those of the choice, from a suite's ``[params]``; of one part only.

    Raises:
        BenchError: for an unknown axis, name or parameter, or a value of the wrong type or range.
    """
    choice = Choice.parse(choice) if isinstance(choice, str) else choice
    if choice.parts:
        return compose(axis, choice, [make(axis, part) for part in choice.parts])
    kind = load(axis, choice.name)
    for variable in REQUIRED.get(axis, ("version",)):
        if not hasattr(kind, variable):
            raise BenchError(f"{axis} {choice.name!r} ({kind.__name__}) has no class variable {variable!r}")
    params = {**(defaults or {}), **dict(choice.params)}
    model = {} if choice.name in entries(axis) else {"model": choice.name.partition(":")[2]}
    known = [f.name for f in dataclasses.fields(kind) if f.name not in model]
    for key, value in params.items():
        if key not in known:
            raise unknown(f"parameter of {axis} {choice.name!r}:", key, known)
        # Two things pydantic would take: true for a number, and infinity or NaN.
        boolean = isinstance(value, bool) and "bool" not in str(kind.__dataclass_fields__[key].type)
        if boolean or (isinstance(value, float) and not math.isfinite(value)):
            raise BenchError(f"{axis} {choice.name!r}: {key} = {value!r} is refused: not a finite number")
    return validated(kind, {**params, **model}, f"{axis} {choice.name!r}")


def compose(axis: str, choice: Choice, parts: Sequence[Any]) -> Any:
    """Return the part that several of an axis make together.

    Raises:
        BenchError: when parts of this axis, or these, do not go together.
    """
    if axis not in COMPOSED:
        raise BenchError(f"{axis} {choice.label!r} is refused: only a {', '.join(COMPOSED)} can be composed")
    module, _, attribute = COMPOSED[axis].partition(":")
    return getattr(import_module(module), attribute)(tuple(parts))


def validated(kind: Any, params: Mapping[str, Any], who: str) -> Any:
    """Build a dataclass from parameters, checked by type and by range.

    Raises:
        BenchError: naming who refuses which value, and why.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(piece) for piece in first["loc"])
        raise BenchError(f"{who}: {where} = {first['input']!r} is refused: {first['msg']}") from error


def settings(choice: Choice, part: Any) -> dict[str, Any]:
    """Return everything about a part that can change a result, as JSON values."""
    if choice.parts:
        each = [settings(*pair) for pair in zip(choice.parts, part.parts, strict=True)]
        return {"name": choice.name, "version": part.version, "params": {"parts": each}}
    return {"name": choice.name, "version": part.version, "params": dataclasses.asdict(part)}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A field of a part, as its source spells it."""

    name: str
    type: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What a part's source says of it.

    Attributes:
        summary: first line of the docstring.
        source: the paper, from the docstring's ``Source:`` line.
        docstring: all of it but the section on attributes.
        parameters: every field, what it inherits from a class of the same file included.
    """

    summary: str
    source: str
    docstring: str
    parameters: tuple[Parameter, ...]


def describe(axis: str, name: str) -> Description:
    """Read a part's docstring and fields from its source, without importing it."""
    module, _, attribute = locate(axis, name).partition(":")
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise BenchError(f"cannot find {module}, where {axis} {name!r} should be")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if attribute in classes:
        return _describe_class(attribute, classes)
    raise BenchError(f"{module} has no class {attribute}, which {axis} {name!r} should be")


def _describe_class(name: str, classes: Mapping[str, ast.ClassDef]) -> Description:
    docstring = ast.get_docstring(classes[name]) or ""
    source = re.search(r"^Source: (.+?)(?:\n\s*\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return Description(
        summary=docstring.partition("\n")[0],
        source=" ".join(source.group(1).split()) if source else "",
        docstring=docstring.partition("\nAttributes:")[0].rstrip(),
        parameters=tuple(_parameters(name, classes).values()),
    )


def _parameters(name: str, classes: Mapping[str, ast.ClassDef]) -> dict[str, Parameter]:
    """Return the fields in a dataclass's order; those it has from a class of the same file come first."""
    found: dict[str, Parameter] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= _parameters(base.id, classes)
    meanings = _meanings(ast.get_docstring(classes[name]) or "")
    for item in classes[name].body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            field, annotation = item.target.id, ast.unparse(item.annotation)
            if "ClassVar" not in annotation:
                inherited = found[field].meaning if field in found else ""
                meaning = meanings.get(field, inherited)
                found[field] = Parameter(field, annotation, ast.unparse(item.value), meaning)
    return found


def _meanings(docstring: str) -> dict[str, str]:
    """Return what the section "Attributes:" says of every name."""
    section = docstring.partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
