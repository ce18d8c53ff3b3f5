"""Find a published data set by its name, or a corrupted data set by its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from acclimate.data.corrupted import manifest, read
from acclimate.data.folders import Split
from acclimate.data.published import SETS
from acclimate.data.published.domain_sets import same_spelling
from acclimate.data.published.listing import Listing, Place
from acclimate.errors import InputError, unknown_name


def find(
    name: str, split: Split, root: Path | None, domain: str | None, download: bool
) -> tuple[Listing, str]:
    """List the images of a split, or domain, of a published data set; they are not decoded yet.

    Returns:
        The images, and the name of their domain.

    Raises:
        InputError: there is no such split or domain, or its files are missing or cannot be used.
    """
    published = SETS[name]
    if published.tests and split == "train":
        raise InputError(
            f"{name} has no training images: use the split test, and train on {published.tests}."
        )
    if published.domains is None and domain is not None:
        raise InputError(f"{name} has no domains: leave {domain!r} out.")
    place = _place(name, root, download)
    if published.domains is None:
        return published.read(place, split, ""), ""
    if _has_manifest(place):
        return find_corrupted(place.root, split, domain, published.classes, name)
    domain = _resolve_domain(name, domain, _domains(place))
    return published.read(place, split, domain), domain


def find_corrupted(
    folder: Path,
    split: Split,
    domain: str | None,
    classes: Callable[[], tuple[str, ...]] | None = None,
    name: str = "",
) -> tuple[Listing, str]:
    """List a domain of what ``acclimate corrupt`` wrote, as ``find``.

    Args:
        folder: The folder with the manifest.
        split: Must be ``test``.
        domain: ``CORRUPTION/SEVERITY``.
        classes: Function that returns the classes which the manifest must have; None accepts any.
        name: Name of the data set in messages; the folder if empty.
    """
    contents = manifest.read(folder)
    if split == "train":
        raise InputError(
            f"{folder} holds corrupted test images: use the split test, and train on the images "
            "that they were made from."
        )
    if classes is not None and contents.classes != classes():
        raise InputError(
            f"{folder} has other classes than {name}: give the folder itself as the data set."
        )
    domain = _resolve_domain(name or str(folder), domain, contents.domains)
    return read.read(folder, contents, domain), domain


def domains(name: str, root: Path | None) -> tuple[str, ...]:
    """The domains of a data set that exist on disk; empty if it has no domains.

    Raises:
        InputError: the data set has domains, but its folder is missing or holds none of them.
    """
    if SETS[name].domains is None:
        return ()
    place = _place(name, root, download=False)
    return manifest.read(place.root).domains if _has_manifest(place) else _domains(place)


def splits(name: str) -> tuple[Split, ...]:
    """The splits that together hold all images of a data set."""
    published = SETS[name]
    return ("test",) if published.tests or published.whole else ("train", "test")


def _place(name: str, root: Path | None, download: bool) -> Place:
    """Locate a data set: the root itself, or the data set's folder or archive in the root."""
    published = SETS[name]
    if download and published.download is None:
        raise InputError(f"{name} cannot be downloaded by acclimate: {published.remedy}.")
    if name == "fashion-mnist-mini":
        return Place(name, Path(), published.remedy)
    if root is None:
        hint = f" (or ./{name} for the folder of that name)" if Path(name).exists() else ""
        raise InputError(f"{name} needs --root, its folder{hint}: {published.remedy}.")
    root = Path(root).expanduser()
    if download and published.download is not None:
        published.download(Place(name, root, published.remedy))
    if not root.exists():
        raise InputError(f"there is no folder {root} for {name}: {published.remedy}.")
    inside = (root / each for each in published.inside)
    return Place(name, next((each for each in inside if each.exists()), root), published.remedy)


def _has_manifest(place: Place) -> bool:
    return bool(SETS[place.name].tests) and manifest.is_ours(place.root)


def _domains(place: Place) -> tuple[str, ...]:
    read = SETS[place.name].domains
    known = tuple(read(place)) if read else ()
    if not known:
        raise InputError(f"{place.root} holds no domain of {place.name}: {place.remedy}.")
    return known


def _resolve_domain(name: str, domain: str | None, known: Sequence[str]) -> str:
    """Find a domain in the list of known ones, whatever its spelling."""
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
