"""Sets ``DOMAIN/CLASS/image`` for domain generalisation: PACS, Office-Home, VisDA-2017."""

from pathlib import Path

from acclimate.data.folders import Split
from acclimate.data.published import class_folders
from acclimate.data.published.found import Found, Place
from acclimate.errors import InputError

_DOMAINS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "office-home": ("Art", "Clipart", "Product", "Real World"),
    "visda": ("train", "validation"),
}
_CLASSES = {"pacs": 7, "office-home": 65, "visda": 12}


def domains(place: Place) -> list[str]:
    """The domains whose folders are there, in the published spelling."""
    return list(_folders(place))


def read(place: Place, split: Split, domain: str) -> Found:
    """All images of a domain; classes are the sorted names of the folders, the same for all.

    Raises:
        InputError: the domains that are there differ in their classes, or have too few or too
            many, or there is something wrong with this domain's folder.
    """
    found = _folders(place)
    names = {each: class_folders.subfolders(place.root / each) for each in found.values()}
    classes = tuple(sorted({name for there in names.values() for name in there}))
    for folder, there in names.items():
        if len(there) < len(classes):
            missing = min(set(classes) - set(there))
            other = next(each for each in names if missing in names[each])
            raise InputError(
                f"{place.root / folder} lacks the class folder {missing!r}, which {other} has, but "
                f"all domains must have the same classes: remove it there, or {place.remedy}."
            )
    if len(classes) != _CLASSES[place.name]:
        raise InputError(
            f"{place.root / found[domain]} has {len(classes)} class folders, but {place.name} has "
            f"{_CLASSES[place.name]} classes: {place.remedy}."
        )
    label_of = {name: label for label, name in enumerate(classes)}
    return class_folders.read(place.root, found[domain], label_of, classes, place.remedy)


def same_spelling(domain: str) -> str:
    """What is left of a domain's name if spaces, hyphens, underscores and case do not count.

    Copies of Office-Home have ``Real World``, ``Real_World`` and ``RealWorld``.
    """
    return "".join(letter for letter in domain.lower() if letter.isalnum())


def _folders(place: Place) -> dict[str, str]:
    """The folder of each of the set's domains that is there, in whatever spelling."""
    there = {same_spelling(name): name for name in class_folders.subfolders(Path(place.root))}
    known = ((domain, same_spelling(domain)) for domain in _DOMAINS[place.name])
    return {domain: there[spelling] for domain, spelling in known if spelling in there}
