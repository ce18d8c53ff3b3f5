"""Begin a corrupted data set or resume one; the manifest records its settings and progress."""

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
from acclimate.data.fingerprint import fingerprint
from acclimate.data.images import Images, LabelledImages
from acclimate.errors import InputError
from acclimate.runtime.progress import Progress
from acclimate.storage import atomic
from acclimate.version import __version__

_LEFTOVER = ".*.partial"


def describe(data: LabelledImages | Images, name: str, plan: CorruptionPlan) -> dict[str, Any]:
    """The manifest's description of a corrupted data set: everything that determines its files.

    Raises:
        InputError: there are no images, or two classes would share one folder.
    """
    if not len(data.images):
        raise InputError("there are no images to corrupt: give a data set with at least one.")
    height, width = data.images.shape[2:]
    layout = plan.layout_for(height, width)
    published = nearest_size(min(height, width))
    classes, labels = None, None
    if isinstance(data, LabelledImages):
        classes = [as_folder(each) if layout == "folders" else each for each in data.classes]
        labels = _digest(data.labels.tolist())
        if len(set(classes)) < len(classes):
            raise InputError("two classes would have the same name: rename one of them.")
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
    """Raise an error unless a corrupted data set can be written to a path.

    Raises:
        InputError: the path is a file, or a folder that is not empty and holds no corrupted data
            set.
    """
    if out.is_dir():
        foreign = any(not path.match(_LEFTOVER) for path in out.iterdir())
    else:
        foreign = out.exists()
    if foreign and not manifest.is_ours(out):
        raise InputError(f"{out} exists and is no corrupted data set; choose another --out.")


def begin(out: Path, description: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The manifest to complete: a new one, or an earlier run's with the parts that are intact.

    Files that an interrupted run left unfinished are removed.

    Args:
        out: The folder to write.
        description: From `describe`.
        progress: Called for each part that is checked.

    Raises:
        InputError: the earlier run had other settings or images, or its manifest is damaged.
    """
    description = json.loads(json.dumps(description))  # as it reads back from a file
    done: dict[str, str] = {}
    for leftover in out.glob(_LEFTOVER):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if (out / manifest.NAME).exists():
        earlier = manifest.read_record(out)
        # The path of the same data may differ; its checksums may not.
        for key in description:
            if key != "data" and earlier.get(key) != description[key]:
                what = key.removesuffix("_sha256").replace("_", " ")
                raise InputError(f"{out} was started with different {what}; choose another --out.")
        description["data"] = earlier.get("data")
        done = _intact(out, earlier.get("files"), progress)
    return {**description, "complete": False, "files": done}


def _intact(out: Path, files: Any, progress: Progress) -> dict[str, str]:
    """The listed files and folders whose checksums still match."""
    if not isinstance(files, dict):
        raise InputError(f"{out / manifest.NAME} is damaged, it lists no files: {manifest.REMEDY}.")
    intact = {}
    for number, (key, checksum) in enumerate(files.items()):
        progress("check existing files", number + 1, len(files), key)
        if (out / key).exists() and manifest.checksum(out / key) == checksum:
            intact[key] = checksum
    return intact


def write_manifest(out: Path, record: dict[str, Any]) -> None:
    """Write the manifest atomically."""
    ordered = {**record, "files": dict(sorted(record["files"].items()))}
    atomic.write_text(out / manifest.NAME, json.dumps(ordered, indent=1) + "\n")


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([*values]).encode()).hexdigest()
