"""
First clusters
==============

We sort 1797 pictures of handwritten digits into ten clusters without a label, and
compare the result with k-means on the pixels.
"""

import sys
import time

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from skdeepcluster import DigPro
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.metrics import clustering_accuracy
from skdeepcluster.plots import ClusterSheetDisplay, HistoryDisplay

quick = "--quick" in sys.argv
torch.set_num_threads(1)  # enough for so small a network; more hurt on a busy machine

# %%
# The images are one array, here of shape (n, height, width) and of type uint8. The
# true digits stay aside: only the metrics at the end read them.

X, digits = load_digits_images()
print(f"{len(X)} images of {X.shape[1]} x {X.shape[2]} pixels, {X.dtype}")

# %%
# ``DigPro`` is used as ``KMeans`` is. k-means gets each image as a row of pixels;
# DigPro gets the images and learns what to compare them by.

began = time.perf_counter()
kmeans = KMeans(n_clusters=10, n_init=10, random_state=0).fit(X.reshape(len(X), -1))
kmeans_seconds = time.perf_counter() - began

model = DigPro(
    n_clusters=10,
    max_epochs=20 if quick else "auto",
    verbose=0 if quick else 1,
    random_state=0,
)
began = time.perf_counter()
model.fit(X)
seconds = time.perf_counter() - began

# %%
# The numbers of clusters mean nothing, so that the clusters are first matched to the
# digits: that is the clustering accuracy (ACC). Normalised mutual information (NMI)
# and the adjusted Rand index (ARI) compare the two partitions as they are.

print(f"{'':18}{'ACC':>7}{'NMI':>7}{'ARI':>7}{'seconds':>9}")
for name, labels, took in (
    ("KMeans on pixels", kmeans.labels_, kmeans_seconds),
    ("DigPro", model.labels_, seconds),
):
    print(
        f"{name:18}"
        f"{clustering_accuracy(digits, labels):7.3f}"
        f"{normalized_mutual_info_score(digits, labels):7.3f}"
        f"{adjusted_rand_score(digits, labels):7.3f}"
        f"{took:9.1f}"
    )

# %%
# Without true labels, one looks. Each row is a cluster, its most typical images
# first; the confidence is the mean of ``predict_proba``.

sheet = ClusterSheetDisplay.from_estimator(model, X)
if not quick:
    sheet.figure_.savefig("digits_clusters.png", dpi=150)
    print("The clusters are drawn in digits_clusters.png")

# %%
# The images that the model is least sure of show where clusters touch.

ClusterSheetDisplay.from_estimator(model, X, order="uncertain", clusters=range(3))

# %%
# ``history_`` holds a row for each epoch. The prototype loss begins after the
# warm-up; a cluster that dies shows in the sizes.

HistoryDisplay.from_estimator(model)

# %%
# A fitted model also labels images that it has not seen, and gives the embedding in
# which they were compared.

print("clusters:", model.predict(X[:5]), "embedding:", model.transform(X[:5]).shape)
