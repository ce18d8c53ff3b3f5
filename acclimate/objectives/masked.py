"""Most patches of an image are hidden and painted anew from the rest: TTT-MAE."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate import randomness
from acclimate.backbones import Classifier, attend_plainly
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32
from acclimate.views import shifted_crop

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# Channels of each of the decoder's attention heads, as in MAE.
_HEAD_WIDTH = 32


def patchify(
    images: Float[Tensor, "batch channels h w"], size: tuple[int, int]
) -> Float[Tensor, "batch patches pixels"]:
    """Cut images into patches, row by row; a patch is row by row too, channels innermost.

    Args:
        images: Height and width are multiples of the patch's.
        size: Height and width of a patch.
    """
    batch, channels, height, width = images.shape
    rows, columns = height // size[0], width // size[1]
    cut = images.reshape(batch, channels, rows, size[0], columns, size[1])
    cut = cut.permute(0, 2, 4, 3, 5, 1)  # [batch, rows, columns, patch height, width, channels]
    return cut.reshape(batch, rows * columns, size[0] * size[1] * channels)


def masked_loss(
    painted: Float[Tensor, "batch hidden pixels"],
    patches: Float[Tensor, "batch hidden pixels"],
    *,
    normalise: bool,
) -> Float[Tensor, ""]:
    """Mean squared error of the hidden patches (He et al. 2022, *MAE*, § 3).

    Args:
        painted: What the decoder made of the hidden patches.
        patches: These patches of the image. Compared in at least float32.
        normalise: Whether each patch is scaled to mean 0 and standard deviation 1 before.
    """
    patches = at_least_float32(patches)
    if normalise:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + 1e-6).sqrt()
    return (painted.to(patches.dtype) - patches).square().mean()


class MaskedReconstruction(Objective):
    """TTT-MAE (Gandelsman et al. 2022): a masked autoencoder on a vision transformer's encoder.

    The encoder sees only the visible patches of each image; a small transformer paints the others.
    At deployment a batch costs images x masks short sequences.

    Args:
        model: Its encoder is timm's VisionTransformer, as `split` makes it of one.
        preprocessing: Gives the size of the images.
        masked: The share of patches that are hidden.
        masks: Random masks of each image at deployment; before it there is one.
        padding: Of the shifted crops before deployment, in pixels.
        decoder_width: Channels of the decoder, a multiple of 32: that many has each attention head.
        decoder_depth: Blocks of the decoder.
        normalise_pixels: Whether each patch's own mean and standard deviation are taken out of
            what is to be painted.

    Raises:
        InputError: another encoder, images that are no whole number of patches, or options out of
            range.
    """

    positions: Tensor

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        masked: float = 0.75,
        masks: int = 128,
        padding: int = 4,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        normalise_pixels: bool = True,
    ):
        super().__init__()
        encoder = _transformer(model.encoder)
        self.patch: tuple[int, int] = encoder.patch_embed.patch_size
        rows, columns = _grid(preprocessing.size, self.patch)
        self.visible = round(rows * columns * (1 - masked))
        if not 0 < self.visible < rows * columns:
            raise InputError(
                f"masked={masked} must hide some of the {rows * columns} patches, but not all."
            )
        if masks < 1 or decoder_depth < 1 or decoder_width < 1 or decoder_width % _HEAD_WIDTH:
            raise InputError(
                f"a masked autoencoder needs at least 1 mask, at least 1 block and a width that is "
                f"a multiple of {_HEAD_WIDTH}, not {masks}, {decoder_depth} and {decoder_width}."
            )
        self.masks, self.padding = masks, padding
        self.normalise_pixels = normalise_pixels
        self.embed = nn.Linear(encoder.embed_dim, decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.blocks = _blocks(decoder_width, decoder_depth)
        attend_plainly(self.blocks, rows * columns)
        self.paint = nn.Linear(decoder_width, 3 * self.patch[0] * self.patch[1])
        positions = sinusoids(rows, columns, decoder_width)
        self.register_buffer("positions", positions, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Int64[Tensor, "batch masks patches"]]:
        """The images as they are, and random orders of each one's patches: visible ones first."""
        return images, self._orders(key, index, self.masks)

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Int64[Tensor, "batch 1 patches"]]:
        """The images shifted and flipped, and one order of each one's patches."""
        shifted = shifted_crop(images, self.padding, key=key, index=index)
        return shifted, self._orders(key, index, 1)

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        orders: Int64[Tensor, "batch masks patches"],
    ) -> Float[Tensor, ""]:
        """How badly hidden patches are painted, a mean over images and masks."""
        batch, masks, patches = orders.shape
        parts = [self.visible, patches - self.visible]
        shown, hidden = orders.flatten(0, 1).split(parts, dim=1)
        image = torch.arange(batch, device=views.device).repeat_interleave(masks)[:, None]
        encoder = _transformer(model.encoder)
        painted = self._painted(encode_visible(encoder, views, image, shown), shown, hidden)
        return masked_loss(
            painted, patchify(views, self.patch)[image, hidden], normalise=self.normalise_pixels
        )

    def _painted(
        self,
        tokens: Float[Tensor, "n prefix+shown dim"],
        shown: Int64[Tensor, "n shown"],
        hidden: Int64[Tensor, "n hidden"],
    ) -> Float[Tensor, "n hidden pixels"]:
        tokens = self.embed(tokens)  # [n, prefix + shown, width]
        n, length, width = tokens.shape
        prefix, seen = tokens.split([length - shown.shape[1], shown.shape[1]], dim=1)
        canvas = self.mask_token.to(tokens.dtype).expand(n, len(self.positions), width)
        canvas = canvas.scatter(1, shown[:, :, None].expand_as(seen), seen) + self.positions
        tokens = self.blocks(torch.cat([prefix, canvas], dim=1))[:, -len(self.positions) :]
        return self.paint(tokens.gather(1, hidden[:, :, None].expand(-1, -1, width)))

    def _orders(self, key: int, index: Tensor, masks: int) -> Tensor:
        patches = len(self.positions)
        noise = randomness.uniform(randomness.key(key, "masks"), index, masks * patches)
        return noise.view(-1, masks, patches).argsort(dim=2, stable=True)


def encode_visible(
    encoder: "VisionTransformer",
    images: Float[Tensor, "batch 3 h w"],
    image: Int64[Tensor, "n 1"],
    shown: Int64[Tensor, "n shown"],
) -> Float[Tensor, "n prefix+shown dim"]:
    """The encoder's tokens of a few patches of images, which see nothing of the others.

    Args:
        encoder: Its patches are embedded once for each image, its blocks run once for each row
            of ``shown`` and over these patches alone.
        images: Normalised.
        image: The image of each row.
        shown: Which of its patches are visible.
    """
    tokens = encoder._pos_embed(encoder.patch_embed(images))  # [batch, prefix + patches, dim]
    prefix, patches = tokens[:, : encoder.num_prefix_tokens], tokens[:, encoder.num_prefix_tokens :]
    visible = torch.cat([prefix[image.squeeze(1)], patches[image, shown]], dim=1)
    # With average pooling timm has its last norm behind the pooling, as fc_norm.
    return encoder.fc_norm(encoder.norm(encoder.blocks(encoder.norm_pre(visible))))


def sinusoids(rows: int, columns: int, width: int) -> Float[Tensor, "rows*columns width"]:
    """Fixed positions on a grid, half of the channels for each axis (MAE, Appendix A.1)."""
    rates = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in grid]  # 2 x [rows * columns, width / 4]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


def _blocks(width: int, depth: int) -> nn.Sequential:
    from timm.models.vision_transformer import Block

    heads = width // _HEAD_WIDTH
    blocks = (Block(width, heads, qkv_bias=True) for _ in range(depth))
    return nn.Sequential(*blocks, nn.LayerNorm(width, eps=1e-6))


def _transformer(encoder: nn.Module) -> "VisionTransformer":
    """The encoder, or that of a twin, in front of its projector."""
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(encoder, nn.Sequential):
        encoder = dict(encoder.named_children()).get("encoder", encoder)
    if not isinstance(encoder, VisionTransformer):
        raise InputError(
            f"a masked autoencoder needs timm's VisionTransformer, not {type(encoder).__name__}; "
            f"choose such a model, or another objective."
        )
    return encoder


def _grid(size: int, patch: tuple[int, int]) -> tuple[int, int]:
    if size % patch[0] or size % patch[1]:
        raise InputError(
            f"images of {size} pixels are no whole number of patches of {patch[0]} x {patch[1]}; "
            f"choose another size or model."
        )
    return size // patch[0], size // patch[1]


@dataclass(frozen=True)
class MaskedReconstructionOptions(ObjectiveOptions):
    """Options of `MaskedReconstruction` at deployment."""

    kind: ClassVar[type[Objective]] = MaskedReconstruction
