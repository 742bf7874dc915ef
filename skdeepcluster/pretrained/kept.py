"""A fitted ImageEncoder as plain values, to be built again where its network is."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from .._input.layouts import Layout
from .._storage import FileError
from .encoder import ImageEncoder

KEPT = ("model", "image_size", "on_error", "batch_size")  # parameters, as they are
BUFFERS = ("low", "span", "seen")  # of the scaling, that encoding reads


def facts_of(encoder: ImageEncoder) -> dict[str, Any]:
    """Describe an encoder by what JSON can hold; weights by their digest.

    Parameters
    ----------
    encoder : ImageEncoder
        Fitted on images of three channels; its model is a name.

    Returns
    -------
    facts : dict
        For :func:`rebuilt`.
    """
    weights = encoder.weights
    if weights is not None and os.path.exists(weights):
        weights = os.path.abspath(weights)
    return {
        "params": {
            **{name: getattr(encoder, name) for name in KEPT},
            "weights": weights,
            "precision": encoder._identity["precision"],  # "auto" depends on the device
        },
        "weights_digest": encoder.weights_digest_,
        "image_shape": list(encoder.image_shape_),
        "dtype": encoder.layout_.dtype.name,
        "scaling": {n: getattr(encoder._scaling, n).tolist() for n in BUFFERS},
    }


def rebuilt(facts: dict[str, Any], **params) -> ImageEncoder:
    """Build an encoder again: on new images it computes what the first one did.

    Parameters
    ----------
    facts : dict
        Of :func:`facts_of`.
    **params
        Parameters that do not change features, such as ``cache`` and ``device``.

    Returns
    -------
    encoder : ImageEncoder
        Fitted.

    Raises
    ------
    FileError
        If the weights here are others than those of the first encoder, or the facts
        are damaged.
    ImportError, OSError
        If the network or its weights are not here.
    """
    try:
        shape = tuple(facts["image_shape"])
        layout = Layout(shape, False, shape, np.dtype(facts["dtype"]))
        encoder = ImageEncoder(**facts["params"], image_shape=shape, **params)
        buffers = {n: torch.tensor(facts["scaling"][n]) for n in BUFFERS}
        expected = facts["weights_digest"]
        pixels = np.zeros((1, *shape), np.uint8)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"The description of the encoder is damaged ({error!r}). Cluster again."
        ) from error
    encoder.fit(pixels)
    if encoder.weights_digest_ != expected:
        raise FileError(
            f"The weights of {encoder.model!r} here are others than those that the "
            f"clusters were found with (digest {encoder.weights_digest_[:12]}, "
            f"expected {str(expected)[:12]}): features of the two do not compare. "
            "Install those weights, or cluster again."
        )
    encoder.layout_ = layout
    for name, value in buffers.items():
        getattr(encoder._scaling, name).copy_(value)
    return encoder
