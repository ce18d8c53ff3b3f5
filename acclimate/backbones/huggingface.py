"""Image classifiers of Hugging Face's transformers, from folders on this machine.

A bundle must load where the folder is not. So the name that it records holds the configuration:
``hf:vit {"hidden_size": 192, ...}``.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from acclimate.backbones.checkpoint import read_checkpoint
from acclimate.backbones.unwrap import LogitsOf
from acclimate.errors import InputError

_LARGEST_CONFIG = 16 * 2**20
_OF_CLASSES = ("id2label", "label2id", "num_labels")
_OF_THE_FILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
_OPTIONAL = "num_batches_tracked"


def read_config(name: str) -> dict[str, Any]:
    """The configuration that a name stands for, from its folder or from the name itself.

    ```python
    read_config("vit-tiny")["model_type"]  # vit
    ```

    Args:
        name: What follows ``hf:``: a folder with a ``config.json``, or what `recorded` returned.

    Raises:
        InputError: there is no such folder, or its configuration cannot be read.
    """
    kind, _, text = name.partition(" {")
    if text:
        return {"model_type": kind} | _parsed("{" + text, f"the architecture hf:{kind}")
    file = Path(name).expanduser() / "config.json"
    if not file.is_file():
        raise InputError(
            f"there is no {file}: hf: takes a folder that save_pretrained wrote; models are not "
            "downloaded."
        )
    if file.stat().st_size > _LARGEST_CONFIG:
        raise InputError(f"{file} is larger than 16 MiB, so it is no configuration of a model.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); copy the folder again.") from error
    config = _parsed(text, str(file))
    if isinstance(architecture := config.get("architecture"), str) and "model_type" not in config:
        raise InputError(
            f"{name} is a folder of timm; give --model timm:{architecture} --weights {name}."
        )
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{file} names no model_type, so it is not of a transformers model.")
    return config


def recorded(name: str) -> str:
    """The name under which a bundle records a model, with its configuration but not its classes."""
    config = read_config(name)
    left_out = ("model_type", *_OF_CLASSES, *_OF_THE_FILE)
    kept = {key: value for key, value in config.items() if key not in left_out}
    return f"hf:{config['model_type']} {json.dumps(kept, sort_keys=True)}"


def labels(name: str) -> tuple[str, ...] | None:
    """The class names in a model's configuration, unless they are only numbers (LABEL_0, ...)."""
    named = read_config(name).get("id2label")
    if not isinstance(named, dict):
        return None
    names = tuple(str(named.get(str(index), "")) for index in range(len(named)))
    usual = all(label == f"LABEL_{index}" for index, label in enumerate(names))
    if usual or len(set(names)) < len(names) or "" in names:
        return None
    return names


def construct(name: str, classes: int | None) -> LogitsOf:
    """Build a model with random weights.

    Raises:
        InputError: transformers is missing, or cannot build this model.
    """
    transformers = _transformers()
    config = _config(name, classes)
    with _quiet(transformers):
        model = transformers.AutoModelForImageClassification.from_config(config)
    return LogitsOf(model.float())


def load_pretrained(name: str, classes: int | None) -> LogitsOf:
    """Build a model with the weights of its folder.

    Raises:
        InputError: as `construct`; or the weights are missing, damaged, or lack a part.
    """
    transformers = _transformers()
    folder = Path(name).expanduser()
    config = _config(name, None)
    if classes is not None and config.num_labels != classes:
        raise InputError(
            f"{folder} holds a classifier of {config.num_labels} classes, not of {classes}; leave "
            "the number of classes out."
        )
    read_checkpoint(folder)  # says in a sentence what is wrong, and runs no code
    # Version 4 may know neither argument, and unpickles nothing but tensors.
    newer = int(transformers.__version__.split(".")[0]) >= 5
    said: dict[str, Any] = {"torch_dtype": torch.float32}
    if newer:
        said = {"dtype": "float32", "weights_only": True}
    with _quiet(transformers):
        model, report = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **said,
        )
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_OPTIONAL))
    if missing:
        raise InputError(
            f"{folder} lacks weights of the classifier ({', '.join(missing[:3])}); fine-tune it "
            "as an image classifier first."
        )
    return LogitsOf(model)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}); restore it from a good copy.") from error
    if not isinstance(config, dict):
        raise InputError(f"{where} is no configuration; restore it from a good copy.")
    return config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"hf: models need {error.name}: pip install 'acclimate[hf]'.") from error
    return transformers


def _config(name: str, classes: int | None) -> Any:
    """The configuration object; only of model types that transformers itself knows."""
    transformers = _transformers()
    values = read_config(name)
    kind = values.pop("model_type")
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    mapped = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if kind not in known or kind not in mapped:
        raise InputError(
            f"hf:{name[:200]} is of the type {kind!r}, for which transformers "
            f"{transformers.__version__} has no image classifier; code of its own is not run."
        )
    if ":" in str(values.get("architecture", "")):  # timm would look for it on the Hub
        raise InputError(f"hf:{name[:200]} is a model of the Hub; models are not downloaded.")
    for key in ("auto_map", "torch_dtype", "dtype", *(_OF_CLASSES if classes else ())):
        values.pop(key, None)
    if classes is not None:
        values["num_labels"] = classes
    with _quiet(transformers):
        return known[kind].from_dict(values)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the library's messages and progress bars; its errors become one sentence."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    # The library builds what the configuration says, and fails in many ways if it cannot be built.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise InputError(
            f"transformers {transformers.__version__} cannot build this model ({reason}); check "
            "the folder's config.json and weights."
        ) from error
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
