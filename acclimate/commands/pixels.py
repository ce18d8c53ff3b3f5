"""Flags of the preprocessing, for the commands that make a bundle of an existing classifier."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rich.console import Console

from acclimate.errors import InputError

if TYPE_CHECKING:
    from acclimate.backbones.stated import Stated
    from acclimate.bundle import Bundle
    from acclimate.data import Images, LabelledImages
    from acclimate.preprocessing import Preprocessing

    Data = TypeVar("Data", Images, LabelledImages)


@dataclass(frozen=True)
class Pixels:
    """What replaces parts of the preprocessing that the classifier's library states."""

    size: tuple[int] | tuple[int, int] | None = None
    """Side, or height and width, of the classifier's input in pixels; images are resized to just
    cover it. Default: what timm, torchvision or the Hugging Face folder states, else the images'
    own size."""
    resize: tuple[int] | tuple[int, int] | None = None
    """Length that the shorter side is resized to before the crop, or height and width that images
    are stretched to. Default: what is stated, or --size."""
    resample: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None = None
    """Interpolation of resizing. Default: what is stated, else bilinear."""
    mean: tuple[float, ...] | None = None
    """Mean that is subtracted, per channel, for images in 0..1, together with --std; a single value
    is a classifier of grey images. Default: what is stated, else ImageNet's."""
    std: tuple[float, ...] | None = None
    """Standard deviation that is divided by, per channel, together with --mean. Default: what is
    stated, else ImageNet's."""

    def load(
        self,
        model: "str | Bundle",
        load: "Callable[[Preprocessing | None], Data]",
        console: Console,
    ) -> "tuple[Data, Preprocessing]":
        """Load images as a classifier sees them, and say how that is.

        Args:
            model: Name of the classifier, as for `acclimate.build`, or its bundle.
            load: Loads the images for a preprocessing; for None at their own size.
            console: Where the preprocessing and its origin are printed.

        Raises:
            InputError: flags that do not go together, or as the loader.
        """
        from acclimate.backbones.stated import Stated
        from acclimate.preprocessing import Preprocessing

        self._check()
        stated = self._what_is_stated(model)
        if stated is None and self.size is not None:
            stated = Stated(Preprocessing(_side(self.size)), "ImageNet's mean and std")
        if stated is None:
            data = load(None)
            own = Preprocessing((data.images.shape[-2], data.images.shape[-1]))
            stated = Stated(own, "the images' size and ImageNet's mean and std")
            return data, self._changed(stated, console)
        chosen = self._changed(stated, console)
        return load(chosen), chosen

    def stated(self, model: str, console: Console) -> "Preprocessing":
        """The preprocessing of a classifier without images, and say how it is.

        Raises:
            InputError: nothing states it, and no size is given; or flags that do not go together.
        """
        from acclimate.backbones.stated import Stated
        from acclimate.preprocessing import Preprocessing

        self._check()
        stated = self._what_is_stated(model)
        if stated is None and self.size is None:
            raise InputError(
                f"nothing states how {model} wants its images; give --size, or --images of the "
                "right size."
            )
        if stated is None:
            assert self.size is not None
            stated = Stated(Preprocessing(_side(self.size)), "ImageNet's mean and std")
        return self._changed(stated, console)

    def _check(self) -> None:
        """Refuse one of two flags that belong together: the other would be guessed."""
        for name, value, other in (("mean", self.mean, "std"), ("std", self.std, "mean")):
            if value is not None and getattr(self, other) is None:
                raise InputError(
                    f"--mean and --std belong together; give --{other} beside --{name}."
                )
        if self.mean is not None and max(self.mean, default=0) > 1:
            raise InputError(
                "--mean and --std are in units of 0..1; divide those of 0..255 by 255."
            )

    def _what_is_stated(self, model: "str | Bundle") -> "Stated | None":
        """What the library or a bundle states; a library is not asked where all parts are given."""
        from acclimate.backbones.stated import Stated, preprocessing_of

        if not isinstance(model, str):
            return Stated(model.preprocessing, "the bundle")
        if self.size is not None and self.mean is not None and self.std is not None:
            try:
                return preprocessing_of(model)
            except InputError:
                return None
        return preprocessing_of(model)

    def _changed(self, stated: Any, console: Console) -> "Preprocessing":
        from acclimate.backbones.stated import changed_preprocessing
        from acclimate.resizing import words

        base = stated.preprocessing
        if self.resample and base.mode == "none" and self.size is None and self.resize is None:
            raise InputError(
                f"--resample has no effect, for images are not resized ({stated.origin}); give "
                "--size or --resize beside it."
            )
        chosen = changed_preprocessing(
            base,
            size=None if self.size is None else _side(self.size),
            resize=None if self.resize is None else _side(self.resize),
            interpolation=self.resample,
            mean=self.mean,
            std=self.std,
        )
        if self.resize is not None and _is_smaller(chosen.resize, chosen.size):
            raise InputError(
                f"--resize {' '.join(map(str, self.resize))} does not fill the input of "
                f"{words(chosen.size)} pixels, whose borders would be black; give a smaller --size "
                "or a larger --resize."
            )
        given = [name for name, value in asdict(self).items() if value is not None]
        flags = " and ".join(f"--{name}" for name in given)
        origin = f"{stated.origin}, {flags}" if flags else stated.origin
        console.print(f"preprocessing: {chosen} (from {origin})", highlight=False, soft_wrap=True)
        return chosen


def pixels_of(bundles: dict[str, Path]) -> "Preprocessing":
    """The preprocessing of bundles, which must resize and crop alike.

    Raises:
        InputError: two bundles take other pixels; or a bundle is damaged.
    """
    from acclimate.bundle_record import preprocessing_of, read_record

    found = {label: preprocessing_of(read_record(path)) for label, path in bundles.items()}
    first, *others = found
    for other in others:
        if found[other].pixels != found[first].pixels:
            raise InputError(
                f"{first} and {other} take other pixels ({found[first]}; {found[other]}); run them "
                f"one after another into the same --out, or pass --size."
            )
    return found[first]


def _is_smaller(resize: Any, size: Any) -> bool:
    """Whether images are smaller than the crop: the shorter side, or height or width."""
    from acclimate.resizing import both

    height, width = both(size)
    if isinstance(resize, int):
        return resize < min(height, width)
    return resize[0] < height or resize[1] < width


def _side(numbers: tuple[int, ...]) -> int | tuple[int, int]:
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
