"""
Several clusterings at once
===========================

Shapes on coloured backgrounds can be sorted by shape or by background, and neither is
more right than the other. ``MFCVAE`` finds both clusterings in one fit, and draws new
images of each cluster.
"""

import sys

import torch
from sklearn.cluster import KMeans

from skdeepcluster import MFCVAE
from skdeepcluster.datasets import make_facet_images
from skdeepcluster.metrics import facet_label_scores
from skdeepcluster.plots import FacetsDisplay

quick = "--quick" in sys.argv
torch.set_num_threads(1)  # enough for so small a network; more hurt on a busy machine

# %%
# Each image is one of four shapes on one of six backgrounds, drawn independently. The
# two columns of labels stay aside until the end.

data = make_facet_images(1000 if quick else 2000, return_X_y=False, random_state=0)
X, Y = data.images, data.target
print(f"{len(X)} images of shape {X.shape[1:]}, known factors: {data.target_names}")

# %%
# A clusterer with one answer has to choose. A facet has its own latents and its own
# mixture of Gaussians; they are trained one after the other, and the deepest comes
# first. It has two latents by default, which hold little more than the factor that
# most pixels depend on: this leaves the finer one for the next facet.

kmeans = KMeans(n_clusters=8, n_init=10, random_state=0).fit(X.reshape(len(X), -1))
model = MFCVAE(
    n_clusters=8,
    n_facets=2,
    max_epochs=16 if quick else "auto",
    batch_size=64 if quick else 128,
    verbose=0 if quick else 1,
    random_state=0,
).fit(X)
print("labels of the facets:", model.facet_labels_.shape)
print("clusters in use:", model.n_active_clusters_)

# %%
# Which facet took which factor is seen in the scores: of each facet (row) with each
# factor (column). There are more clusters than shapes or backgrounds: purity allows
# several of them for one class, the clustering accuracy (ACC) does not. What a facet
# tells of the factor that is not its own is read off the normalised mutual
# information (NMI), which is near 0 for independent labels; the purity never is.

for name, labels in (("KMeans", kmeans.labels_), ("MFCVAE", model.facet_labels_)):
    scores = facet_label_scores(labels, Y)
    print(f"\n{name:10}" + "".join(f"{factor:>24}" for factor in data.target_names))
    print(" " * 10 + f"{'purity':>10}{'ACC':>7}{'NMI':>7}" * Y.shape[1])
    for facet in range(len(scores.purity)):
        print(f"{'facet ' + str(facet) if name == 'MFCVAE' else '':10}", end="")
        for factor in range(Y.shape[1]):
            print(
                f"{scores.purity[facet, factor]:10.3f}"
                f"{scores.accuracy[facet, factor]:7.3f}"
                f"{scores.nmi[facet, factor]:7.3f}",
                end="",
            )
        print()

# %%
# Without labels one looks. A row is a cluster: its most typical images, and new ones
# that were drawn from it. What a row has in common is its facet; all else varies.
# Here the clusters of facet 0 are shapes, most in several sizes. In the grid, an image
# has the background of the one above and the shape of the one to the left.

display = FacetsDisplay.from_estimator(model, X, random_state=0)
if not quick:
    display.figure_.savefig("facets.png", dpi=150)
    print("The clusters are shown in facets.png")

# %%
# The same by hand: new images of one cluster, and the first image on the background
# of the second.

drawn, clusters = model.sample(4, facet=0, cluster=1, random_state=0)
print("drawn:", drawn.shape, drawn.dtype, "clusters by facet:", clusters.tolist())
swapped = model.swap_facets(X[:1], X[1:2], facets=-1)
print("shape and background:", Y[0], Y[1], "facets:", model.predict_facets(swapped)[0])

# %%
# One facet of the fitted model is an estimator by itself, for a pipeline or a metric
# that knows nothing of facets.

shallow = model.facet(0)
print("latents of facet 0:", shallow.transform(X[:3]).shape, shallow.predict(X[:3]))
