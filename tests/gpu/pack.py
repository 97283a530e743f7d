"""Pack what `measure.py` needs on a machine with a GPU and without a network: ``pack.py DATA PACKED``.

``PACKED/utkface/UTKFace`` gets the faces of the data root DATA at 64 px, at most 50 MiB of them, under their
own names. ``PACKED/wheels`` gets this project and the installed versions of what it needs, except torch,
torchvision and MLflow.
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from PIL import Image

SIDE = 64
LARGEST = 50 * 2**20
"""Most bytes of images."""

NEEDED = (
    "mtlue-bench",
    "pytest",
    "pytest-benchmark",
    "pytest-timeout",
    "pytest-xdist",
    "jaxtyping",
    "beartype",
)
LEFT_OUT = re.compile(r"torch|torchvision|mlflow|triton|nvidia-.*|cuda-.*|setuptools")
ROOT = Path(__file__).resolve().parents[2]


def pack_images(source: Path, target: Path) -> int:
    """Write the faces below a folder as small JPEGs, first those first by date; return their bytes."""
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    # By the last number, the date: sorted by age, the first ones would all be children.
    for file in sorted(source.rglob("*.jpg"), key=lambda file: file.name.split("_")[-1]):
        small = target / file.name
        with Image.open(file) as image:
            image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(small, quality=85)
        total += small.stat().st_size
        if total > LARGEST:
            small.unlink()
            break
    return total


def find_requirements(names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed packages that some packages need, and those, with their versions."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop())[0].lower().replace("_", "-")
        if name in found or LEFT_OUT.fullmatch(name):
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # for another system, or an extra that is not installed
            continue
        # Extras of others are not followed.
        waiting += [need for need in requires(name) or () if "extra ==" not in need]
    return found


def main(data: str, packed: str) -> None:
    """Write both folders."""
    wheels = Path(packed, "wheels")
    images = pack_images(Path(data, "utkface"), Path(packed, "utkface", "UTKFace"))
    found = find_requirements(NEEDED)
    del found["mtlue-bench"]
    pins = [f"{name}=={number}" for name, number in found.items()]
    pip = (sys.executable, "-m", "pip")
    subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", str(wheels), *pins], check=True)
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], check=True)
    carried = sum(file.stat().st_size for file in wheels.iterdir())
    print(f"{images / 2**20:.1f} MiB of images, {carried / 2**20:.1f} MiB of wheels in {packed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
