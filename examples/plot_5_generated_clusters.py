"""
Draw the clusters
=================

``GCC`` trains a diffusion model on its own clusters, learns from the images that it
draws, and can draw more of them afterwards: pictures of what a cluster stands for.
"""

import sys

import numpy as np
import torch

from skdeepcluster import GCC
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.gcc import Generated
from skdeepcluster.metrics import clustering_accuracy
from skdeepcluster.plots import GeneratedSheetDisplay

quick = "--quick" in sys.argv
torch.set_num_threads(1)  # enough for so small a network; more hurt on a busy machine

# %%
# Handwritten digits of 8 x 8 pixels. Stage I is contrastive learning and a k-means;
# the rounds of stage II train the diffusion model, draw from it, and calibrate the
# clusters with what was drawn. ``verbose=1`` shows how long each of them takes.

X, y = load_digits_images()
small = Generated(steps=120, batch_size=32, sampling_steps=10)
model = GCC(
    10,
    max_epochs=30 if quick else "auto",
    bank=small if quick else Generated(),
    samples_per_cluster=20 if quick else "auto",
    verbose=0 if quick else 1,
    random_state=0,
).fit(X)
for row in model.stages_:
    print(f"round {row['round']}: {row['stage']:12} {row['seconds']:6.1f} s")

# %%
# The labels of stage I are kept, to see whether the rest helped. That needs the true
# labels; what the head recognises of the drawn images does not.

print(f"ACC after stage I {clustering_accuracy(y, model.pretrain_labels_):.3f}")
print(f"ACC of labels_    {clustering_accuracy(y, model.labels_):.3f}")
print("recognised of each cluster:", np.round(model.bank_agreement_[-1], 2))

# %%
# New images of each cluster, with the most typical real ones to the left. Below each
# drawn image is the training image nearest to it: a model that remembers would draw
# copies. The heading compares how far drawn images are from the nearest training
# image with how far training images are from each other.

display = GeneratedSheetDisplay.from_estimator(model, X, random_state=0)
if not quick:
    display.figure_.savefig("generated_clusters.png", dpi=150)
    print("The clusters are drawn in generated_clusters.png")

# %%
# By hand: the images come in the layout and the range of the training data.
# ``guidance_scale`` above the default exaggerates what tells a cluster from the others.

images, clusters = model.sample(20, random_state=0)
print(images.shape, images.dtype, clusters)
exaggerated, _ = model.sample(20, cluster=3, guidance_scale=4.0, random_state=0)
print("recognised:", np.mean(model.predict(exaggerated) == 3))
