"""``acclimate wrap``."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from acclimate.commands.common import check_absent


@dataclass(frozen=True)
class Wrap:
    """Make a bundle of a trained classifier as it is, without images and without training.

    The bundle is for methods that learn with any classifier: source, ptbn, tent, tipi. No weight
    and no statistic changes. "acclimate align" adds what the other methods need.

    Example: acclimate wrap --model torchvision:resnet18 --weights last.ckpt --size 224 --out bundle
    """

    model: str
    """Architecture of the classifier: torchvision:NAME, timm:NAME, acclimate:NAME, hf:FOLDER for a
    model of transformers, or module:function for a function that builds it (--trust-code)."""
    out: Path
    """Folder of the new bundle."""
    size: int
    """Height and width of the classifier's input, in pixels."""
    weights: Path | None = None
    """Checkpoint of the classifier: .safetensors, or a file of torch.save; FILE:ENTRY takes a part
    of it, such as last.ckpt:state_dict_ema."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean that the classifier's preprocessing subtracts, per channel, for images in 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that the preprocessing divides by, per channel, for images in 0..1."""
    class_names: Path | None = None
    """A text file with one class name per line, or JSON; default: ImageNet's or the model's own
    where they are known, otherwise numbers."""
    trust_code: bool = False
    """Allow running the function that --model names."""

    def run(self, console: Console) -> None:
        """Run the command."""
        from acclimate.data.class_names import read_class_names
        from acclimate.preprocessing import Preprocessing
        from acclimate.source.wrapped import wrap

        check_absent(self.out)
        bundle = wrap(
            self.model,
            weights=self.weights,
            classes=self.class_names and read_class_names(self.class_names),
            preprocessing=Preprocessing(self.size, self.mean, self.std),
        )
        bundle.save(self.out)
        console.print(
            f"{self.out} is ready for {bundle.method}: acclimate adapt {self.out} FOLDER --out "
            "predictions.csv",
            markup=False,
            soft_wrap=True,
        )
