"""The published configurations of MFCVAE."""

from __future__ import annotations

ALWAYS = {
    "n_facets": 2,
    "augment": "none",
    "elbo_estimator": "mc",
    "beta_decay": 1.0,
    "prior_init": "gmm",
    "n_refits": 0,
    "init_variance": 0.01,
    "max_epochs": 401,
    "precision": "float32",
}
MNIST = {
    "n_clusters": (25, 25),
    "latent_dims": (5, 5),
    "backbone": "mlp",
    "hidden_dims": (500, 2000),
    "likelihood": "bernoulli",
    "output": "sigmoid",
    "covariance_type": "diag",
    "learn_weights": True,
    "stage_shares": (200, 201),
    "fade_in": 15_000 / (201 * 118),
    "batch_size": 512,
    "lr": 5e-4,
}
CONV = {
    "backbone": "conv",
    "hidden_dims": (64, 128),
    "likelihood": "gaussian",
    "normalize_output": True,
    "covariance_type": "full",
    "learn_weights": False,
    "stage_shares": (100, 301),
    "batch_size": 150,
}
SHAPES = {
    "n_clusters": (60, 20),
    "latent_dims": (20, 2),
    "sigma_x": 0.6,
    "output": "identity",
    "fade_in": 2_000 / (301 * 26),
    "lr": 3e-4,
}
SVHN = {
    "n_clusters": (200, 50),
    "latent_dims": (22, 7),
    "sigma_x": 0.3,
    "output": "sigmoid",
    "fade_in": 15_000 / (301 * 489),
    "lr": 5e-4,
}
PUBLISHED = {
    "mnist": {**ALWAYS, **MNIST},
    "3dshapes": {**ALWAYS, **CONV, **SHAPES},
    "svhn": {**ALWAYS, **CONV, **SVHN},
}


def paper_settings(name) -> dict:
    """Keyword arguments of a published configuration.

    ``"mnist"``: 401 epochs of the 60 000 training images in batches of 512, about
    47 000 steps. ``"3dshapes"``: 3 840 images of 32 x 32 pixels, 401 epochs in batches
    of 150. ``"svhn"``: its 73 257 training images, 401 epochs in batches of 150. What
    stays different: an epoch drops the remainder of its batches; clusters have a least
    scale; the convolutions of the encoder have no weight norm, and weights no
    data-dependent start, which the released code itself undoes for most of them;
    ``predict`` takes the optimal q(c|x), not the responsibilities at the mean; the
    temperature of ``sample`` multiplies standard deviations.

    Parameters
    ----------
    name : {"mnist", "3dshapes", "svhn"}

    Returns
    -------
    settings : dict
        For ``MFCVAE(**MFCVAE.paper_settings(name))``.

    Raises
    ------
    ValueError
        If the name is another one.

    References
    ----------
    The authors' code, github.com/FabianFalck/mfcvae at 9f1eca4, ``configs/`` and
    ``train.py``.
    """
    if name not in list(PUBLISHED):
        known = ", ".join(map(repr, PUBLISHED))
        raise ValueError(f"name={name!r} is unknown; pass one of {known}.")
    return dict(PUBLISHED[name])
