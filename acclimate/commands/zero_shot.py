"""``acclimate zero-shot``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from acclimate.commands.common import new_bundle
from acclimate.commands.pixels import Pixels


@dataclass(frozen=True)
class ZeroShot:
    """Make a bundle of a zero-shot classifier, such as CLIP, from the names of classes.

    Nothing is trained and nothing is downloaded. The bundle is for tpt, clipartt, watt-p and
    watt-s, and for methods that learn with any classifier, such as tent, sar and roid.

    Example: acclimate zero-shot openclip:ViT-B-32 --weights clip.safetensors --class-names
    classes.txt --out bundle
    """

    model: tyro.conf.Positional[str]
    """openclip:NAME for a model of open_clip, or hf-clip:FOLDER for a CLIPModel of transformers."""
    class_names: Path
    """A text file with one class name per line, or JSON."""
    out: Path
    """Folder of the new bundle."""
    weights: Path | None = None
    """Checkpoint of openclip:NAME: .safetensors, or a file of torch.save."""
    templates: Path | None = None
    """A text file with one template per line, such as: a photo of a {}. Default: the 8 of WATT."""
    pixels: Annotated[Pixels, tyro.conf.arg(name="")] = Pixels()
    """Preprocessing, where it differs from CLIP's."""

    def run(self, console: Console) -> None:
        """Run the command."""
        with new_bundle(self.out):
            self._run(console)

    def _run(self, console: Console) -> None:
        from acclimate.backbones.clip import check_name
        from acclimate.backbones.prompted import TEMPLATES
        from acclimate.data.class_names import read_class_names, read_templates
        from acclimate.source.zero_shot import zero_shot

        check_name(self.model)
        names = read_class_names(self.class_names)
        templates = TEMPLATES if self.templates is None else read_templates(self.templates)
        preprocessing = self.pixels.stated(self.model, console)
        bundle = zero_shot(
            self.model, names, templates, weights=self.weights, preprocessing=preprocessing
        )
        bundle.save(self.out)
        console.print(
            f"{self.out} is ready for {bundle.method}: acclimate adapt {self.out} FOLDER --out "
            "predictions.csv",
            markup=False,
            soft_wrap=True,
        )
