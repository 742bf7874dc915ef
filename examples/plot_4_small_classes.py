"""
Small classes
=============

Where some classes are ten times as large as others, most clusterings split the large
ones and merge the small ones. We look at the digits, made unequal, through k-means,
DigPro and StatDEC, and at the images that StatDEC finds strange.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.cluster import KMeans

from skdeepcluster import DigPro, StatDEC
from skdeepcluster.datasets import load_digits_images, make_long_tail
from skdeepcluster.metrics import (
    balanced_clustering_accuracy,
    clustering_accuracy,
    per_class_recall,
)

quick = "--quick" in sys.argv
torch.set_num_threads(1)  # enough for so small a network; more hurt on a busy machine

# %%
# ``make_long_tail`` draws a subset whose classes shrink exponentially: here the largest
# has ten times the images of the smallest.

X, digits = make_long_tail(*load_digits_images(), ratio=10, random_state=0)
sizes = np.bincount(digits)
print("images of each digit:", sizes)

# %%
# The methods know nothing of that, but how many clusters to find.

epochs = 20 if quick else "auto"
models = {
    "k-means": KMeans(10, n_init=10, random_state=0).fit(X.reshape(len(X), -1)),
    "DigPro": DigPro(10, max_epochs=epochs, random_state=0).fit(X),
    "StatDEC": StatDEC(10, max_epochs=epochs, random_state=0).fit(X),
}

# %%
# The clustering accuracy (ACC) counts images, so that the large classes decide it. The
# balanced one counts classes.

print(f"{'':10}{'ACC':>7}{'balanced':>10}   cluster sizes")
for name, model in models.items():
    print(
        f"{name:10}"
        f"{clustering_accuracy(digits, model.labels_):7.3f}"
        f"{balanced_clustering_accuracy(digits, model.labels_):10.3f}   "
        f"{np.sort(np.bincount(model.labels_))[::-1]}"
    )

fig, axes = plt.subplots(len(models), sharex=True, sharey=True, layout="constrained")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    ax.bar(np.arange(10), per_class_recall(digits, model.labels_))
    ax.set(ylabel="recall", title=name)
axes[-1].set(
    xticks=np.arange(10), xlabel="digit, from the largest class to the smallest"
)

# %%
# ``score_samples`` says how normal each image is for its cluster. To see whether that
# means something we add images that are no digits: digits upside down would still be
# some, so we shuffle the pixels.

rng = np.random.default_rng(0)
noise = rng.permuted(X[:20].reshape(20, -1), axis=1).reshape(20, *X.shape[1:])
model = models["StatDEC"]
scores = {"digits": model.score_samples(X), "shuffled": model.score_samples(noise)}
for name, score in scores.items():
    print(f"{name:10} median score {np.median(score):8.2f}")

order = scores["digits"].argsort()
fig, axes = plt.subplots(2, 10, figsize=(8, 2), layout="constrained")
for row, chosen in zip(axes, (order[-10:], order[:10]), strict=True):
    for ax, i in zip(row, chosen, strict=True):
        ax.imshow(X[i], cmap="gray_r")
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("normal")
axes[1, 0].set_ylabel("strange")
plt.show()
