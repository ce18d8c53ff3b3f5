"""Data sets ``DOMAIN/CLASS/image`` for domain generalisation: PACS, Office-Home, VisDA-2017."""

from pathlib import Path

from acclimate.data.folders import Split
from acclimate.data.published import class_folders
from acclimate.data.published.listing import Listing, Place
from acclimate.errors import InputError

_DOMAINS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "office-home": ("Art", "Clipart", "Product", "Real World"),
    "visda": ("train", "validation"),
}
_CLASSES = {"pacs": 7, "office-home": 65, "visda": 12}


def domains(place: Place) -> list[str]:
    """The domains whose folders exist, in the published spelling."""
    return list(_folders(place))


def read(place: Place, split: Split, domain: str) -> Listing:
    """All images of a domain. Classes are the sorted names of the folders, equal in all domains.

    Raises:
        InputError: the domains on disk have different classes, or not as many as published, or the
            domain's folder cannot be used.
    """
    folder_of = _folders(place)
    names = {each: class_folders.subfolders(place.root / each) for each in folder_of.values()}
    classes = tuple(sorted({name for present in names.values() for name in present}))
    for folder, present in names.items():
        if len(present) < len(classes):
            missing = min(set(classes) - set(present))
            other = next(each for each in names if missing in names[each])
            raise InputError(
                f"{place.root / folder} lacks the class folder {missing!r}, which {other} has, but "
                f"all domains must have the same classes: remove it there, or {place.remedy}."
            )
    if len(classes) != _CLASSES[place.name]:
        raise InputError(
            f"{place.root / folder_of[domain]} has {len(classes)} class folders, but {place.name} "
            f"has {_CLASSES[place.name]} classes: {place.remedy}."
        )
    label_of = {name: label for label, name in enumerate(classes)}
    return class_folders.read(place.root, folder_of[domain], label_of, classes, place.remedy)


def same_spelling(domain: str) -> str:
    """A domain's name in lower case without spaces, hyphens and underscores, to compare spellings.

    Copies of Office-Home have ``Real World``, ``Real_World`` and ``RealWorld``.
    """
    return "".join(letter for letter in domain.lower() if letter.isalnum())


def _folders(place: Place) -> dict[str, str]:
    """The folder of each domain that exists on disk, whatever its spelling."""
    present = {same_spelling(name): name for name in class_folders.subfolders(Path(place.root))}
    known = ((domain, same_spelling(domain)) for domain in _DOMAINS[place.name])
    return {domain: present[spelling] for domain, spelling in known if spelling in present}
