"""A part of a published set by its name, and what ``acclimate corrupt`` wrote by its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from acclimate.data.corrupted import manifest, read
from acclimate.data.folders import Split
from acclimate.data.published import SETS
from acclimate.data.published.domain_sets import same_spelling
from acclimate.data.published.found import Found, Place
from acclimate.errors import InputError, unknown_name


def find(
    name: str, split: Split, root: Path | None, domain: str | None, download: bool
) -> tuple[Found, str]:
    """A part of a published set and the name of its domain, checked and not yet decoded.

    Raises:
        InputError: there is no such part, it is not there, or it cannot be used.
    """
    published = SETS[name]
    if published.tests and split == "train":
        raise InputError(
            f"{name} has no images to train on: take the split test, and train on "
            f"{published.tests}."
        )
    if published.domains is None and domain is not None:
        raise InputError(f"{name} has no domains: leave {domain!r} out.")
    place = _place(name, root, download)
    if published.domains is None:
        return published.read(place, split, ""), ""
    if _described(place):
        return find_corrupted(place.root, split, domain, published.classes, name)
    known = _domains(place)
    domain = _chosen(name, domain, known)
    return published.read(place, split, domain), domain


def find_corrupted(
    folder: Path,
    split: Split,
    domain: str | None,
    classes: Callable[[], tuple[str, ...]] | None = None,
    name: str = "",
) -> tuple[Found, str]:
    """A part of what ``acclimate corrupt`` wrote, as :func:`find`.

    Args:
        folder: Has the manifest.
        split: It must be ``test``.
        domain: ``CORRUPTION/SEVERITY``.
        classes: What its classes have to be, if that is known.
        name: What the folder is called in messages.
    """
    described = manifest.read(folder)
    if split == "train":
        raise InputError(
            f"{folder} holds corrupted images to test on: take the split test, and train on the "
            "images that they were made from."
        )
    if classes is not None and described.classes != classes():
        raise InputError(
            f"{folder} has other classes than {name}: give the folder itself for the data set."
        )
    domain = _chosen(name or str(folder), domain, described.domains)
    return read.read(folder, described, domain), domain


def domains(name: str, root: Path | None) -> tuple[str, ...]:
    """The domains of a set that are there; none if it has no domains.

    Raises:
        InputError: the set has domains, and its folder is not there or has none of them.
    """
    if SETS[name].domains is None:
        return ()
    place = _place(name, root, download=False)
    return manifest.read(place.root).domains if _described(place) else _domains(place)


def splits(name: str) -> tuple[Split, ...]:
    """The splits that together are all of a set."""
    published = SETS[name]
    return ("test",) if published.tests or published.whole else ("train", "test")


def _place(name: str, root: Path | None, download: bool) -> Place:
    """Where the set lies: the root itself, or the folder or archive in it of the set's name."""
    published = SETS[name]
    if download and published.download is None:
        raise InputError(f"{name} cannot be downloaded by acclimate: {published.remedy}.")
    if name == "fashion-mnist-mini":
        return Place(name, Path(), published.remedy)
    if root is None:
        hint = f" (or ./{name} for the folder of that name)" if Path(name).exists() else ""
        raise InputError(
            f"{name} needs --root, the folder where it lies{hint}: {published.remedy}."
        )
    root = Path(root).expanduser()
    if download and published.download is not None:
        published.download(Place(name, root, published.remedy))
    if not root.exists():
        raise InputError(f"there is no folder {root} for {name}: {published.remedy}.")
    inside = (root / each for each in published.inside)
    return Place(name, next((each for each in inside if each.exists()), root), published.remedy)


def _described(place: Place) -> bool:
    return bool(SETS[place.name].tests) and manifest.is_ours(place.root)


def _domains(place: Place) -> tuple[str, ...]:
    read = SETS[place.name].domains
    known = tuple(read(place)) if read else ()
    if not known:
        raise InputError(f"{place.root} has no domain of {place.name}: {place.remedy}.")
    return known


def _chosen(name: str, domain: str | None, known: Sequence[str]) -> str:
    """The domain in the spelling of the list."""
    if domain is None:
        names = ", ".join(dict.fromkeys(each.split("/")[0] for each in known))
        how = f", with a severity, such as {known[0]}" if "/" in known[0] else ""
        raise InputError(f"{name} has domains: choose one of {names}{how}.")
    if domain in known:
        return domain
    same = [each for each in known if same_spelling(each) == same_spelling(domain) != ""]
    if len(same) == 1 and "/" not in same[0]:
        return same[0]
    raise unknown_name(f"domain of {name}", domain, known)
