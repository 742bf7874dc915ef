"""Features of a frozen network, which train and predict in place of the images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .._engine.checkpoint import facts_of
from .._engine.crowd import look
from .._engine.device import resolve_device
from .._engine.distributed import check_agreed
from .._engine.interrupts import check
from .._engine.shares import all_rows, in_step
from .._input.images import Images
from .._input.layouts import Layout, is_vector
from .._progress import ImageProgress
from .backbone import is_pretrained, load_backbone
from .networks import Pretrained, structure_only
from .streaming import match, range_of

PIXELS = {"cpu": 2**20, "cuda": 2**23}  # of one batch: bounds what layers hold


class Frozen(nn.Module):
    """A frozen network, and what brings raw images to the range that it takes.

    Parameters
    ----------
    images : Images
        The training data, raw.
    network : Pretrained

    Attributes
    ----------
    scaling : Scaling
        Of the images; the network has moments of its own.
    network : Pretrained
    """

    def __init__(self, images: Images, network: Pretrained):
        super().__init__()
        self.scaling, self.network = range_of(images), network.freeze()
        self.scaling.mean, self.scaling.std = torch.zeros(1), torch.ones(1)
        self.to(memory_format=torch.channels_last)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw images (b, C, H, W) to features (b, d)."""
        unit = self.scaling(raw)
        return self.network(unit.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def features(
        self, images: Images, width: int, device, title: str = "", verbose: int = 0
    ) -> Images:
        """Compute the features of images.

        Parameters
        ----------
        images : Images
            In the range of the training data.
        width : int
            Features of an image.
        device : str or torch.device
        title : str
            Of what is shown meanwhile.
        verbose : int
            Nothing is shown (0), a bar or lines (1), or lines (2).

        Returns
        -------
        features : Images
            Vectors, float32, with the ``rows`` of the images.

        Raises
        ------
        FloatingPointError
            If a feature is NaN or infinite.
        """
        device = torch.device(device)
        self.eval().to(device)
        side = self.network.size
        pixels = side**2 if side else images.shape[1] * images.shape[2]
        most = PIXELS["cpu" if device.type == "cpu" else "cuda"]
        size = max(16, min(512, most // pixels))

        def of_rows(rows):
            out = np.empty((rows.stop - rows.start, width), np.float32)
            with ImageProgress(title, len(out), 0, verbose) as shown:
                for start in in_step(range(0, len(out), size)):
                    check()
                    look()
                    first = rows.start + start
                    raw = images[first : min(first + size, rows.stop)][0]
                    part = self(raw.to(device)).cpu().numpy()
                    if not np.isfinite(part).all():
                        raise FloatingPointError(
                            "The pretrained network gives features that are NaN or "
                            f"infinite, of images from row {first} on. X holds values "
                            "that are far from those of images, or the weights are "
                            "damaged."
                        )
                    out[start : start + len(part)] = part
                    shown.advance(len(part))
            return torch.from_numpy(out)

        out = all_rows(of_rows, len(images)).numpy()
        found = Images(out, (1, 1, width))
        found.rows = images.rows
        return found

    @torch.no_grad()
    def width(self, image_shape: tuple[int, int, int], device) -> int:
        """Try the network on two images, and count the features of one.

        Parameters
        ----------
        image_shape : tuple (C, H, W)
        device : str or torch.device

        Returns
        -------
        width : int

        Raises
        ------
        ValueError
            If the network cannot read images of this shape.
        """
        self.eval().to(device)
        try:
            return self.network(torch.zeros(2, *image_shape, device=device)).shape[1]
        except Exception as error:  # a module of the user's own may raise anything
            raise ValueError(
                f"The backbone cannot read images of shape {image_shape}. Pass another "
                f"one, or resize the images. It said: {error}"
            ) from error


def train_on_features(estimator, images: Images) -> tuple[Images, Frozen | None]:
    """Compute the features that an estimator trains on, if it trains on some.

    Parameters
    ----------
    estimator : DeepClusterer
    images : Images
        The training data, raw.

    Returns
    -------
    images : Images
        Features, or the images as they came.
    frozen : Frozen or None

    Raises
    ------
    ValueError
        If X holds vectors, which no pretrained network takes, or images that this one
        cannot read; or if other processes of the training have other images.
    Interrupted
        If a signal asks to end.
    """
    p = estimator
    if is_pretrained(p) and is_vector(images.shape):
        raise ValueError(
            f"weights={p.weights!r}, trainable={p.trainable!r} and backbone="
            f"{p.backbone if isinstance(p.backbone, str) else type(p.backbone)!r} "
            "belong to a pretrained network, which takes images, but X holds vectors. "
            "Leave them out, or pass image_shape=(C, H, W) if the rows are images."
        )
    if p.trainable != "none":
        return images, None
    frozen = Frozen(images, load_backbone(p))
    title, device = f"{type(p).__name__}, features", resolve_device(p.device)
    width = frozen.width(images.shape, device)
    check_agreed(facts_of(p, images))  # before the features of all are put together
    found = frozen.features(images, width, device, title, p.verbose)
    found.origin = images, frozen.network
    return found, frozen


def read_features(estimator, images: Images) -> Images:
    """Replace new images by their features, if the estimator was trained on some.

    Parameters
    ----------
    estimator : DeepClusterer
        Fitted.
    images : Images
        Raw.

    Returns
    -------
    images : Images
    """
    frozen = estimator.encoder_
    if frozen is None:
        return images
    match(images, frozen.scaling)
    width = estimator.net_.module_.scaling.low.numel()
    return frozen.features(images, width, estimator.net_.device)


def restore(estimator, images: Tensor) -> np.ndarray:
    """Bring images that a model drew to the layout of the training data.

    Parameters
    ----------
    estimator : DeepClusterer
        Fitted.
    images : tensor of shape (n, C, H, W)
        In the range of the training data.

    Returns
    -------
    X : ndarray of shape (n, ...)
        Rows of features, float32, if the estimator was trained on some.
    """
    if estimator.encoder_ is None:
        return estimator.layout_.restore(images)
    width = images.shape[3]
    layout = Layout((1, 1, width), False, (width,), np.dtype(np.float32))
    return layout.restore(images)


# -- files -----------------------------------------------------------------------------

PREFIX = "encoder_."  # of the names of its weights, beside those of a module


def state_of(frozen: Frozen | None) -> dict[str, Tensor]:
    """Return what a file has to hold of it, by names that no module has."""
    if frozen is None:
        return {}
    return {f"{PREFIX}{name}": value for name, value in frozen.state_dict().items()}


def split_state(state: dict) -> tuple[dict, dict]:
    """Split what a file holds: into the state of a module, and that of a Frozen."""
    frozen = {n.removeprefix(PREFIX): v for n, v in state.items() if _is_frozen(n)}
    return {n: v for n, v in state.items() if not _is_frozen(n)}, frozen


def _is_frozen(name):
    return name.startswith(PREFIX)


def make_structure(p, image_shape) -> Frozen | None:
    """Build a Frozen for the weights of a file; none is read, downloaded or trained.

    Parameters
    ----------
    p : DeepClusterer
    image_shape : tuple (C, H, W)
    """
    if p.trainable != "none":
        return None
    images = Images(np.zeros((2, *image_shape), np.uint8), image_shape)
    with structure_only():
        return Frozen(images, load_backbone(p))
