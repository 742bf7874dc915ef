"""Random views of a whole batch at once, with parameters drawn for each image.

Images are floating tensors (b, C, H, W) with values in [0, 1]; vectors travel as
(b, 1, 1, d) with centred, unit-scale values. The functions take their parameters as
tensors (b,), one value an image, and equal their torchvision namesakes image by
image. The modules draw the parameters from torch's generator of the batch's device.
The recipes are the views that the estimators know by name.

Nothing writes into its input, waits for the GPU or goes through a matrix product or
a convolution, which autocast and TF32 would round. Where there are four channels the
last is alpha: colour operations leave it alone.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ._functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    horizontal_flip,
    resized_crop,
    rgb_to_grayscale,
)
from ._neighbors import Neighbors
from ._random import (
    ColorJitter,
    FeatureMask,
    GaussianBlur,
    GaussianNoise,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    _Augmentation,
    random_boxes,
)

__all__ = [
    "RECIPES",
    "ColorJitter",
    "FeatureMask",
    "GaussianBlur",
    "GaussianNoise",
    "Neighbors",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "digits",
    "gaussian_blur",
    "horizontal_flip",
    "make_augmentation",
    "random_boxes",
    "resized_crop",
    "rgb_to_grayscale",
    "simclr",
    "vector",
    "weak",
]


def simclr(min_area: float = 0.2, blur: int = 0) -> nn.Module:
    """Make views of colour photographs: crop, mirror, recolour, turn grey.

    From Chen et al. (2020), "A Simple Framework for Contrastive Learning of Visual
    Representations", with colour strength 0.5. They crop from `min_area` 0.08 and,
    except on CIFAR-10, blur with a `blur`, the odd kernel size, of a tenth of the
    image side. The defaults are milder: for small images and short training.
    """
    return nn.Sequential(
        RandomResizedCrop(scale=(min_area, 1.0), flip=0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        RandomGrayscale(p=0.2),
        GaussianBlur(blur) if blur else nn.Identity(),
    )


def digits() -> nn.Module:
    """Make views of grey images whose orientation and stroke matter: no mirror."""
    crop = RandomResizedCrop(scale=(0.5, 1.0), degrees=12.0)
    return nn.Sequential(crop, ColorJitter(brightness=0.4, contrast=0.4))


def weak() -> nn.Module:
    """Make views that keep colour and orientation: crops of 0.8 to all of the area."""
    return RandomResizedCrop(scale=(0.8, 1.0))


def vector() -> nn.Module:
    """Make views of centred, unit-scale vectors: add noise, set some features to 0."""
    return nn.Sequential(GaussianNoise(std=0.1), FeatureMask(p=0.15))


RECIPES: dict[str, Callable[[], nn.Module]] = {
    recipe.__name__: recipe for recipe in (simclr, digits, weak, vector)
}


def make_augmentation(
    augment: str | Callable[[Tensor], Tensor], image_shape: tuple[int, int, int]
) -> Callable[[Tensor], Tensor]:
    """Return the augmentation that an estimator's `augment` stands for.

    What you make invariant you stop clustering by. ``"auto"`` is ``"neighbors"`` for
    vectors, ``"digits"`` for one-channel images and ``"simclr"`` for all others,
    which **mirrors and recolours**. To cluster by colour or by orientation pass
    ``"weak"``, or a callable that changes only what does not matter to you.

    Parameters
    ----------
    augment : "auto", "none", "neighbors", a name in RECIPES or callable
        A callable maps a batch (b, C, H, W) to one of the same shape, and is
        returned as it is: images in [0, 1], or vectors (b, 1, 1, d).
    image_shape : (int, int, int)
        (C, H, W); (1, 1, d) stands for vectors.

    Raises
    ------
    ValueError
        If the name or a part of ``augment`` is for images and the data are vectors, or
        the other way round, or if the name is unknown.
    TypeError
        If `augment` is neither a string nor callable, or is a class.
    """
    vectors = image_shape[0] == image_shape[1] == 1
    if not isinstance(augment, str):
        if isinstance(augment, Neighbors) and not vectors:
            raise ValueError(
                f"augment={augment!r} is for vectors, but X holds images of shape "
                f"{tuple(image_shape)}, whose pixels tell little of what they show. "
                "Pass features of a pretrained network (ImageEncoder, or backbone=... "
                "with trainable='none')."
            )
        if isinstance(augment, type):
            raise TypeError(
                f"augment is the class {augment.__name__}; pass an instance, such as "
                f"{augment.__name__}()."
            )
        parts = list(_parts(augment))
        if any(isinstance(part, Neighbors) and part is not augment for part in parts):
            raise ValueError(
                "augment has Neighbors inside of another module, where no neighbour is "
                "looked up. Pass Neighbors(then=...) with what is done to them."
            )
        for part in parts:
            _check_kind(part, vectors)
        if callable(augment):
            return augment
        raise TypeError(
            f"augment={augment!r} is neither a string nor callable; pass 'auto', one "
            f"of {sorted(RECIPES)}, 'none' or a callable from batch to batch."
        )
    if augment == "none":
        return nn.Identity()
    if vectors:
        kind, known, auto = "vectors", ["neighbors", "vector"], "neighbors"
        hint = "; flattened images need image_shape=(C, H, W), and what a frozen "
        hint += "network gives (trainable='none') are vectors, too"
    else:
        kind, known, hint = "images", sorted(RECIPES.keys() - {"vector"}), ""
        auto = "digits" if image_shape[0] == 1 else "simclr"
    name = auto if augment == "auto" else augment
    if name not in known:
        raise ValueError(
            f"augment={name!r} is no recipe for {kind}; "
            f"pass 'auto', one of {known}, 'none' or a callable from batch to batch"
            f"{hint}."
        )
    return Neighbors() if name == "neighbors" else RECIPES[name]()


def _parts(augment):
    """Yield a callable and what it is made of, also inside of a Compose."""
    yield augment
    inside = list(augment.children()) if isinstance(augment, nn.Module) else []
    listed = getattr(augment, "transforms", None)
    for part in [*inside, *(listed if isinstance(listed, list | tuple) else [])]:
        yield from _parts(part)


def _check_kind(part, vectors):
    """Refuse a module of ours that is for images, where there are vectors."""
    if vectors and isinstance(part, _Augmentation) and part.of_images:
        raise ValueError(
            f"augment has {part!r}, which is for images, but what trains are vectors. "
            "Pass 'auto', 'vector' or 'neighbors', or a callable that maps (b, 1, 1, d)"
            "; flattened images need image_shape=(C, H, W), and what a frozen network "
            "gives (trainable='none') are vectors, too."
        )
    if not vectors and isinstance(part, FeatureMask):
        raise ValueError(
            f"augment has {part!r}, which is for vectors, but X holds images. Pass "
            "'auto', 'weak', 'simclr', 'digits', or a callable that maps (b, C, H, W)."
        )
