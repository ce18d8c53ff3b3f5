"""Names of classes, and templates for them: read from a user's file; and ImageNet's names."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from acclimate.errors import InputError

_LARGEST_FILE = 16 * 2**20


def read_class_names(path: Path) -> list[str]:
    """Read class names in the order of a network's outputs.

    ```python
    read_class_names(Path("classes.txt"))  # ["cat", "dog"]
    ```

    Args:
        path: A text file with one name per line; or JSON: a list, a map from output to name
            (``{"0": "cat"}``), from name to output, or a transformers ``config.json``. A byte-order
            mark, spaces around names, blank lines and any kind of line end are allowed.

    Raises:
        InputError: the file cannot be read, has no name, or has one twice.
    """
    text = _read_text(path)
    names = _from_json(path, text) if text.lstrip()[:1] in ("[", "{") else _lines(text)
    if not names:
        raise InputError(f"{path} holds no class name; write one per line.")
    check_distinct(names, str(path))
    return names


def read_templates(path: Path) -> list[str]:
    """Read templates of a zero-shot classifier, such as ``a photo of a {}``.

    ```python
    read_templates(Path("templates.txt"))  # ["a photo of a {}", "{} in a video game"]
    ```

    Args:
        path: A text file with one template per line, with all that `read_class_names` allows in
            such a file. It is not JSON, although a template may begin with ``{``.

    Raises:
        InputError: the file cannot be read, or has no template.
    """
    templates = _lines(_read_text(path))
    if not templates:
        raise InputError(f"{path} holds no template; write one per line.")
    return templates


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise an InputError if a name stands for two outputs: answers could not be told apart.

    Args:
        names: Class names in the order of the outputs.
        where: Where they are from, for the message.
    """
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            raise InputError(
                f"{where}: {name!r} names the outputs {first[name]} and {index}; give each class "
                "a name of its own."
            )
        first[name] = index


@cache
def imagenet_names() -> tuple[str, ...]:
    """ImageNet's 1000 class names in the order of the outputs: ``tench``, ``goldfish``, ...

    A name that several classes have (crane) is followed by the class's WordNet id.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    indices = range(info.num_classes())
    names = [info.index_to_description(index).partition(",")[0] for index in indices]
    count = Counter(names)
    return tuple(
        name if count[name] == 1 else f"{name} ({info.index_to_label_name(index)})"
        for index, name in enumerate(names)
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is larger than 16 MiB; give a file with class names alone.")
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}); give a UTF-8 text file."
        ) from error
    if "\0" in text:
        raise InputError(f"{path} cannot be read as text; give a UTF-8 text file.")
    return text


def _from_json(path: Path, text: str) -> list[str]:
    try:
        names = _in_order(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is no list of class names in JSON ({error}); write one name per line instead."
        ) from error
    return [name.strip() for name in names]


def _in_order(record: Any) -> list[str]:
    """The names in JSON: a list, or a map in either direction."""
    if isinstance(record, dict) and isinstance(record.get("id2label"), dict):
        record = record["id2label"]
    if isinstance(record, dict):
        if all(type(value) is int for value in record.values()):
            record = {str(index): name for name, index in record.items()}
        wanted = [str(index) for index in range(len(record))]
        if set(record) != set(wanted):
            raise ValueError("its outputs are not numbered from 0")
        record = [record[index] for index in wanted]
    # Keras writes ["n01440764", "tench"] for each class.
    names = [" ".join(each) if isinstance(each, list) else each for each in record]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("a name is no text")
    return names
