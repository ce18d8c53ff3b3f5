"""Begin a corrupted set, or go on with one: its manifest says what it is made of and how far."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import features

from acclimate.data.corrupted import manifest
from acclimate.data.corrupted.layouts import JPEG_QUALITY, as_folder
from acclimate.data.corrupted.plan import CorruptionPlan
from acclimate.data.corruptions import CONSTANTS
from acclimate.data.corruptions.constants import nearest_size
from acclimate.data.corruptions.frost import frost_source
from acclimate.data.datasets import Images, LabelledImages
from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError
from acclimate.runtime.progress import Progress
from acclimate.storage import atomic
from acclimate.version import __version__

_LEFTOVER = ".*.partial"


def describe(data: LabelledImages | Images, name: str, plan: CorruptionPlan) -> dict[str, Any]:
    """What is made, and all that determines it.

    Raises:
        InputError: there are no images, or two classes would share one folder.
    """
    if not len(data.images):
        raise InputError("there are no images to corrupt.")
    height, width = data.images.shape[2:]
    layout = plan.layout_for(height, width)
    published = nearest_size(min(height, width))
    classes, labels = None, None
    if isinstance(data, LabelledImages):
        classes = [as_folder(each) if layout == "folders" else each for each in data.classes]
        labels = _digest(data.labels.tolist())
        if len(set(classes)) < len(classes):
            raise InputError("two classes would have one name: rename one of them.")
    formats = {"jpeg": f"jpeg {JPEG_QUALITY}", "png": "png"}
    return {
        "format": manifest.FORMAT,
        "version": manifest.VERSION,
        "layout": layout,
        "image_format": formats[plan.image_format] if layout == "folders" else None,
        "data": name,
        "images_sha256": fingerprint(data.images),
        "labels_sha256": labels,
        "paths_sha256": _digest(data.paths) if layout == "folders" else None,
        "classes": classes,
        "count": len(data.images),
        "size": [height, width],
        "seed": plan.seed,
        "severities": list(plan.severities),
        "corruptions": list(plan.corruptions),
        "constants_published_for_size": published,
        "lengths_scaled_by": min(height, width) / published,
        "constants": {
            each: [CONSTANTS[each][published][severity - 1] for severity in plan.severities]
            for each in plan.corruptions
        },
        "frost_textures": frost_source() if "frost" in plan.corruptions else None,
        "software": {
            "acclimate": __version__,
            "torch": str(torch.__version__),
            "torchvision": version("torchvision"),
            "pillow": PIL.__version__,
            "libjpeg": features.version("jpg"),
        },
    }


def check_place(out: Path) -> None:
    """Refuse a place that holds something else.

    Raises:
        InputError: a file, or a folder with anything in it but a corrupted set.
    """
    if out.is_dir():
        foreign = any(not path.match(_LEFTOVER) for path in out.iterdir())
    else:
        foreign = out.exists()
    if foreign and not manifest.is_ours(out):
        raise InputError(f"{out} exists and is no corrupted set; choose another --out.")


def begin(out: Path, described: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The manifest to fill: a new one, or that of an earlier run with the parts that are whole.

    What a killed run left half written is removed.

    Raises:
        InputError: the earlier run was another one, or its manifest is damaged.
    """
    described = json.loads(json.dumps(described))  # as it will be read
    done: dict[str, str] = {}
    for leftover in out.glob(_LEFTOVER):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if (out / manifest.NAME).exists():
        found = manifest.read_record(out)
        # The same data may be called by another path; its checksums tell.
        for key in described:
            if key != "data" and found.get(key) != described[key]:
                what = key.removesuffix("_sha256").replace("_", " ")
                raise InputError(f"{out} was begun with other {what}; choose another --out.")
        described["data"] = found.get("data")
        done = _whole(out, found.get("files"), progress)
    return {**described, "complete": False, "files": done}


def _whole(out: Path, listed: Any, progress: Progress) -> dict[str, str]:
    """Those of the listed files and folders that still have their checksums."""
    if not isinstance(listed, dict):
        raise InputError(f"{out / manifest.NAME} is damaged, it lists no files: {manifest.REMEDY}.")
    whole = {}
    for number, (key, checksum) in enumerate(listed.items()):
        progress("check what is there", number + 1, len(listed), key)
        if (out / key).exists() and manifest.checksum(out / key) == checksum:
            whole[key] = checksum
    return whole


def write_manifest(out: Path, record: dict[str, Any]) -> None:
    """Write it atomically."""
    ordered = {**record, "files": dict(sorted(record["files"].items()))}
    atomic.write_text(out / manifest.NAME, json.dumps(ordered, indent=1) + "\n")


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([*values]).encode()).hexdigest()
