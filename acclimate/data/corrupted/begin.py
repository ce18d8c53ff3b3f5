"""Begin a corrupted set, or go on with one: its manifest says what it is made of and how far."""

import json
import shutil
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import features

from acclimate import __version__, files
from acclimate.data.corrupted.layouts import JPEG_QUALITY, as_folder
from acclimate.data.corrupted.manifest import FORMAT, NAME, VERSION
from acclimate.data.corrupted.recipe import Layout, Recipe
from acclimate.data.corruptions import CONSTANTS
from acclimate.data.corruptions.constants import nearest_size
from acclimate.data.corruptions.frost import frost_source
from acclimate.data.datasets import Images, LabelledImages
from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError


def describe(
    data: LabelledImages | Images, name: str, recipe: Recipe, layout: Layout
) -> dict[str, Any]:
    """All that determines the files."""
    height, width = data.images.shape[2:]
    published = nearest_size(min(height, width))
    classes = list(data.classes) if isinstance(data, LabelledImages) else None
    if classes and layout == "folders":
        classes = [as_folder(each) for each in classes]
        if len(set(classes)) < len(classes):
            raise InputError("two classes would share one folder: rename one, or use layout npy.")
    formats = {"jpeg": f"jpeg {JPEG_QUALITY}", "png": "png"}
    return {
        "format": FORMAT,
        "version": VERSION,
        "layout": layout,
        "image_format": formats[recipe.image_format] if layout == "folders" else None,
        "data": name,
        "images_sha256": fingerprint(data.images),
        "classes": classes,
        "count": len(data.images),
        "size": [height, width],
        "seed": recipe.seed,
        "severities": list(recipe.severities),
        "corruptions": list(recipe.corruptions),
        "constants_published_for_size": published,
        "lengths_scaled_by": min(height, width) / published,
        "constants": {
            each: [CONSTANTS[each][published][severity - 1] for severity in recipe.severities]
            for each in recipe.corruptions
        },
        "frost_textures": frost_source() if "frost" in recipe.corruptions else None,
        "software": {
            "acclimate": __version__,
            "torch": str(torch.__version__),
            "pillow": PIL.__version__,
            "libjpeg": features.version("jpg"),
        },
    }


def begin(out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """The manifest to fill: a new one, or that of a run which was interrupted."""
    described = json.loads(json.dumps(described))  # as it will be read
    new = {**described, "complete": False, "files": {}}
    path = out / NAME
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is no corrupted set; choose another --out.")
        write_manifest(out, new)
        return new
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in described if found.get(key) != described[key]]
        done = {key: str(value) for key, value in found["files"].items()}
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"{path} is damaged; remove {out} and run again.") from error
    if differing:
        raise InputError(
            f"{out} was begun with another {differing[0].replace('_', ' ')}; choose another --out."
        )
    for leftover in out.glob(".*.partial"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return {**new, "complete": bool(found.get("complete")), "files": done}


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Write it atomically."""
    ordered = {**manifest, "files": dict(sorted(manifest["files"].items()))}
    files.write_text(out / NAME, json.dumps(ordered, indent=1) + "\n")
