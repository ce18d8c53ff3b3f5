"""Reconstruction of masked patches from the visible ones: TTT-MAE."""

import math
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
from acclimate.randomness import Key
from acclimate.resizing import words
from acclimate.runtime.precision import at_least_float32
from acclimate.views import shifted_crop

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# Channels of each attention head of the decoder, as in MAE.
_HEAD_WIDTH = 32


def patchify(
    images: Float[Tensor, "batch channels h w"], size: tuple[int, int]
) -> Float[Tensor, "batch patches pixels"]:
    """Cut images into flattened patches. Patches and their pixels are in row-major order.

    ```python
    patchify(torch.rand(8, 3, 32, 32), (4, 4)).shape  # [8, 64, 48]
    ```

    Args:
        images: Images whose height and width are multiples of those of a patch.
        size: Height and width of a patch.

    Returns:
        The pixels of each patch, with the channels of a pixel side by side.
    """
    batch, channels, height, width = images.shape
    rows, columns = height // size[0], width // size[1]
    cut = images.reshape(batch, channels, rows, size[0], columns, size[1])
    cut = cut.permute(0, 2, 4, 3, 5, 1)  # [batch, rows, columns, patch height, width, channels]
    return cut.reshape(batch, rows * columns, size[0] * size[1] * channels)


def masked_loss(
    reconstructed: Float[Tensor, "batch hidden pixels"],
    patches: Float[Tensor, "batch hidden pixels"],
    *,
    normalise: bool,
) -> Float[Tensor, ""]:
    """Mean squared error of the reconstructed patches (He et al. 2022, *MAE*, § 3).

    ```python
    loss = masked_loss(decoded, patchify(images, (4, 4))[:, hidden], normalise=True)
    ```

    Args:
        reconstructed: Output of the decoder for the hidden patches.
        patches: The same patches of the image. The error is computed in at least float32.
        normalise: Whether to scale each target patch to mean 0 and standard deviation 1 first.
    """
    patches = at_least_float32(patches)
    if normalise:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + 1e-6).sqrt()
    return (reconstructed.to(patches.dtype) - patches).square().mean()


class MaskedReconstruction(Objective):
    """TTT-MAE (Gandelsman et al. 2022): a masked autoencoder with the classifier's encoder.

    The encoder processes only the visible patches of each image. A small transformer, the decoder,
    reconstructs the hidden patches. At deployment the encoder processes images · masks sequences of
    visible patches for each batch.

    ```python
    objective = MaskedReconstruction(model, preprocessing, masks=16)
    views, orders = objective.draw(images, key(0), torch.arange(len(images)))
    loss = objective(model, preprocessing.normalize(views), orders)
    ```

    Args:
        model: The classifier, whose encoder is timm's VisionTransformer (see `split`).
        preprocessing: Preprocessing of its images; only their size is used.
        masked: Fraction of the patches that are hidden.
        masks: Number of random masks per image at deployment. Before deployment it is 1.
        padding: Largest shift of the crops before deployment, in pixels.
        decoder_width: Channels of the decoder, a multiple of 32, the width of an attention head.
        decoder_depth: Number of transformer blocks of the decoder.
        normalise_pixels: Whether the target patches are normalised by their own mean and standard
            deviation.

    Raises:
        InputError: the encoder is no VisionTransformer, the image size is no multiple of the patch
            size, or an option is out of range.
    """

    positions: Tensor
    replayable = True

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
        rows, columns = _grid(preprocessing, self.patch)
        self.visible: int = round(rows * columns * (1 - masked))
        if not 0 < self.visible < rows * columns:
            raise InputError(
                f"masked={masked} must hide at least 1 and not all of the {rows * columns} patches."
            )
        if masks < 1 or decoder_depth < 1 or decoder_width < 1 or decoder_width % _HEAD_WIDTH:
            raise InputError(
                f"a masked autoencoder needs at least 1 mask, at least 1 block and a width that is "
                f"a multiple of {_HEAD_WIDTH}, not {masks}, {decoder_depth} and {decoder_width}."
            )
        self.masks: int = masks
        self.padding: int = padding
        self.normalise_pixels = normalise_pixels
        self.embed: nn.Linear = nn.Linear(encoder.embed_dim, decoder_width)
        self.mask_token: nn.Parameter = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.blocks: nn.Sequential = _blocks(decoder_width, decoder_depth)
        attend_plainly(self.blocks, rows * columns)
        self.paint: nn.Linear = nn.Linear(
            decoder_width, preprocessing.channels * math.prod(self.patch)
        )
        positions = sinusoids(rows, columns, decoder_width)
        self.register_buffer("positions", positions, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Int64[Tensor, "batch masks patches"]]:
        """The images unchanged, and random orders of the patches of each, visible patches first."""
        return images, self._orders(key, index, self.masks)

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Int64[Tensor, "batch 1 patches"]]:
        """The images shifted and flipped, and one random order of the patches of each."""
        shifted = shifted_crop(images, self.padding, key=key, index=index)
        return shifted, self._orders(key, index, 1)

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        orders: Int64[Tensor, "batch masks patches"],
    ) -> Float[Tensor, ""]:
        """Reconstruction error of the hidden patches, a mean over images and masks.

        Args:
            model: The classifier that adapts.
            views: Normalised images.
            orders: Orders of the patches from `draw`; the first `visible` of each are visible.
        """
        batch, masks, patches = orders.shape
        parts = [self.visible, patches - self.visible]
        shown, hidden = orders.flatten(0, 1).split(parts, dim=1)
        image = torch.arange(batch, device=views.device).repeat_interleave(masks)[:, None]
        encoder = _transformer(model.encoder)
        reconstructed = self._decoded(encode_visible(encoder, views, image, shown), shown, hidden)
        patches = patchify(views, self.patch)[image, hidden]
        return masked_loss(reconstructed, patches, normalise=self.normalise_pixels)

    def _decoded(
        self,
        tokens: Float[Tensor, "n prefix+shown dim"],
        shown: Int64[Tensor, "n shown"],
        hidden: Int64[Tensor, "n hidden"],
    ) -> Float[Tensor, "n hidden pixels"]:
        """Pixels of the hidden patches, from the encoder's tokens of the visible patches."""
        tokens = self.embed(tokens)  # [n, prefix + shown, width]
        n, length, width = tokens.shape
        prefix, visible = tokens.split([length - shown.shape[1], shown.shape[1]], dim=1)
        patches = self.mask_token.to(tokens.dtype).expand(n, len(self.positions), width)
        patches = patches.scatter(1, shown[:, :, None].expand_as(visible), visible) + self.positions
        tokens = self.blocks(torch.cat([prefix, patches], dim=1))[:, -len(self.positions) :]
        return self.paint(tokens.gather(1, hidden[:, :, None].expand(-1, -1, width)))

    def _orders(self, key: Key, index: Tensor, masks: int) -> Tensor:
        patches = len(self.positions)
        noise = randomness.uniform(randomness.key(key, "masks"), index, masks * patches)
        return noise.view(-1, masks, patches).argsort(dim=2, stable=True)


def encode_visible(
    encoder: "VisionTransformer",
    images: Float[Tensor, "batch 3 h w"],
    image: Int64[Tensor, "n 1"],
    shown: Int64[Tensor, "n shown"],
) -> Float[Tensor, "n prefix+shown dim"]:
    """Encode only the visible patches of images.

    The patches of an image are embedded once. The transformer blocks run once for each row of
    ``shown``, on the patches of that row.

    ```python
    shown = torch.randperm(64)[None, :16]  # 16 of the 64 patches of image 0
    tokens = encode_visible(model.encoder, images, torch.tensor([[0]]), shown)
    ```

    Args:
        encoder: The vision transformer.
        images: Normalised images.
        image: Index of the image of each row.
        shown: Indices of the visible patches of each row.
    """
    tokens = encoder._pos_embed(encoder.patch_embed(images))  # [batch, prefix + patches, dim]
    prefix, patches = tokens[:, : encoder.num_prefix_tokens], tokens[:, encoder.num_prefix_tokens :]
    visible = torch.cat([prefix[image.squeeze(1)], patches[image, shown]], dim=1)
    # With average pooling, timm's final norm is fc_norm and normally follows the pooling.
    return encoder.fc_norm(encoder.norm(encoder.blocks(encoder.norm_pre(visible))))


def sinusoids(rows: int, columns: int, width: int) -> Float[Tensor, "rows*columns width"]:
    """Sinusoidal position embeddings of a grid, half of the channels per axis (MAE, App. A.1)."""
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
    """The vision transformer of an encoder, which in a twin comes before the projector."""
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(encoder, nn.Sequential):
        encoder = dict(encoder.named_children()).get("encoder", encoder)
    if not isinstance(encoder, VisionTransformer):
        raise InputError(
            f"a masked autoencoder needs timm's VisionTransformer, not {type(encoder).__name__}; "
            f"choose such a model, or another objective."
        )
    return encoder


def _grid(preprocessing: Preprocessing, patch: tuple[int, int]) -> tuple[int, int]:
    height, width, _ = preprocessing.shape
    if height % patch[0] or width % patch[1]:
        raise InputError(
            f"the image size of {words(preprocessing.size)} pixels is no multiple of the patch "
            f"size {patch[0]} x {patch[1]}; choose another size or model."
        )
    return height // patch[0], width // patch[1]


@dataclass(frozen=True)
class MaskedReconstructionOptions(ObjectiveOptions):
    """Options of `MaskedReconstruction` at deployment.

    ```python
    AdapterSettings(steps=20, objective=MaskedReconstructionOptions(), update=Adam(1e-5))
    ```
    """

    kind: ClassVar[type[Objective]] = MaskedReconstruction
