"""Networks that take the noise out of images or vectors, built of diffusers."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .._input.layouts import is_vector

MLP_WIDTH, MLP_BLOCKS = 256, 3


class UNetSize(NamedTuple):
    """Size of a U-Net.

    Attributes
    ----------
    channels : tuple of int
        Widths of the levels; each but the first halves the resolution.
    layers : int
        Residual blocks of a level.
    attention : bool
        Whether the deepest level and the middle attend.
    groups : int
        Of the group norms.
    side : int
        Largest side of what it reads: larger images are cut into patches, whose pixels
        become channels.
    """

    channels: tuple[int, ...]
    layers: int
    attention: bool
    groups: int
    side: int


DENOISERS = {
    "nano": UNetSize((32, 64), 1, False, 8, 16),
    "micro": UNetSize((48, 96), 1, False, 8, 16),
    "tiny": UNetSize((32, 64, 64), 1, False, 8, 32),
    "small": UNetSize((64, 128, 128), 1, True, 32, 32),
    "base32": UNetSize((64, 128, 128), 2, True, 32, 32),
    "mid32": UNetSize((96, 192, 192), 2, True, 32, 32),
    "ddpm32": UNetSize((128, 256, 256, 256), 2, True, 32, 32),
}


def import_diffusers():
    """Import diffusers, which takes seconds and which only generated images need.

    Returns
    -------
    diffusers : module

    Raises
    ------
    ImportError
        If it is not installed, or cannot be imported: the message says what to do.
    """
    try:
        import diffusers

        # the package imports its parts when they are asked for: now, not in training
        _ = diffusers.UNet2DModel, diffusers.DDPMScheduler
        _ = diffusers.DPMSolverMultistepScheduler, diffusers.DDIMScheduler
    except Exception as error:  # a broken install raises nearly anything
        raise ImportError(
            "GCC draws images by diffusers, which could not be imported: "
            f"{type(error).__name__}: {error}. Run pip install --upgrade diffusers; if "
            "the message is about torchvision, install torch and torchvision of one "
            "release together."
        ) from error
    return diffusers


def resolve_denoiser(denoiser, image_shape, device) -> str:
    """Name the denoiser that ``"auto"`` stands for, and check every other one.

    Parameters
    ----------
    denoiser : str
    image_shape : tuple (C, H, W)
    device : torch.device

    Returns
    -------
    denoiser : {"mlp", "nano", "micro", "tiny", "small", "base32", "mid32", "ddpm32"}

    Raises
    ------
    ValueError
        If the name is unknown, or is one for images and the data are vectors.
    """
    vectors = is_vector(image_shape)
    if denoiser == "auto":
        if vectors:
            return "mlp"
        if device.type == "cpu":
            return "nano"
        return "small" if image_shape[0] == 1 else "mid32"
    known = ["mlp", *DENOISERS]
    if denoiser not in known:
        names = ", ".join(map(repr, ["auto", *known]))
        raise ValueError(f"denoiser={denoiser!r} is unknown. Pass one of {names}.")
    if vectors and denoiser != "mlp":
        raise ValueError(
            f"denoiser={denoiser!r} needs images, but X holds vectors. Use "
            "denoiser='mlp', or pass image_shape=(C, H, W) if the rows are images."
        )
    return denoiser


class UNet(nn.Module):
    """U-Net of diffusers for images of any size.

    Images are padded by their edge to a size that halves evenly, and large ones are cut
    into patches, without loss, which makes a step some times cheaper.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    n_classes : int
        Rows of the class embedding.
    size : UNetSize

    Raises
    ------
    ImportError
        If diffusers cannot be imported.
    """

    def __init__(self, image_shape, n_classes, size):
        super().__init__()
        channels, height, width = image_shape
        largest, levels = max(height, width), len(size.channels)
        self.patch = 2 ** max(0, math.ceil(math.log2(largest / size.side)))
        multiple = self.patch * 2 ** (levels - 1)
        bottom, right = -height % multiple, -width % multiple
        self.padding, self.size = (0, right, 0, bottom), (height, width)
        plain = levels - 1
        last = ("AttnDownBlock2D", "AttnUpBlock2D")
        down, up = last if size.attention else ("DownBlock2D", "UpBlock2D")
        self.network = import_diffusers().UNet2DModel(
            sample_size=(
                (height + bottom) // self.patch,
                (width + right) // self.patch,
            ),
            in_channels=channels * self.patch**2,
            out_channels=channels * self.patch**2,
            block_out_channels=size.channels,
            layers_per_block=size.layers,
            down_block_types=("DownBlock2D",) * plain + (down,),
            up_block_types=(up,) + ("UpBlock2D",) * plain,
            norm_num_groups=size.groups,
            attention_head_dim=32,
            add_attention=size.attention,
            num_class_embeds=n_classes,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Map images (b, C, H, W), timesteps (b,) and classes (b,) to (b, C, H, W)."""
        height, width = self.size
        x = F.pixel_unshuffle(F.pad(x, self.padding, mode="replicate"), self.patch)
        out = F.pixel_shuffle(self.network(x, t, labels).sample, self.patch)
        return out[:, :, :height, :width]


class MLPDenoiser(nn.Module):
    """Residual network of linear layers, for vectors.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
        (1, 1, d) for vectors; images are flattened.
    n_classes : int
        Rows of the class embedding.
    width : int
        Of the hidden layers.
    blocks : int
        Residual blocks.
    """

    def __init__(self, image_shape, n_classes, width=MLP_WIDTH, blocks=MLP_BLOCKS):
        super().__init__()
        import_diffusers()
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps

        d = math.prod(image_shape)
        self.into, self.out = nn.Linear(d, width), nn.Linear(width, d)
        # v is nearly a multiple of x, which depends on the noise in it
        self.gate = nn.Linear(width, d)
        self.time = nn.Sequential(
            Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0),
            TimestepEmbedding(64, width),
        )
        self.class_embedding = nn.Embedding(n_classes, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
            for _ in range(blocks)
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Map (b, C, H, W), timesteps (b,) and classes (b,) to (b, C, H, W)."""
        flat = x.flatten(1)
        condition = self.time(t) + self.class_embedding(labels)
        h = self.into(flat)
        for block in self.blocks:
            h = h + block(h + condition)
        return (self.out(h) + self.gate(condition) * flat).view_as(x)
