"""
How many clusters?
==================

``GridSearchCV`` runs over the number of clusters, scored by the silhouette, which
needs no labels. We read the scores as a curve: the highest one is not the answer.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from skdeepcluster import DigPro
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.metrics import (
    balance_scorer,
    clustering_accuracy,
    silhouette_scorer,
    whole_data_split,
)

quick = "--quick" in sys.argv

# %%
# The data: the digits 0 to 4, so that we know what the search should find.

X, digits = load_digits_images()
X, digits = X[digits < 5], digits[digits < 5]
candidates = [3, 4, 5, 6, 7]

# %%
# We cluster the very images whose clusters we want, so that there is no test set:
# ``whole_data_split`` makes one "fold" of all of them. The second scorer tells how
# even the clusters are: it falls when some of them are empty or tiny.
#
# Why not simply take the highest silhouette? It is measured in an embedding that was
# *trained* to have ``n_clusters`` tight groups. One more cluster often splits a class
# into two tight halves, and the score goes on rising slowly. So ``refit`` gets a rule
# of thumb: the smallest number of clusters that reaches nine tenths of the highest
# silhouette. The nine tenths are a choice, not a law.


def smallest_good(results):
    """Return the row of the smallest n_clusters with a score near the highest."""
    scores = results["mean_test_silhouette"]
    sizes = np.asarray(results["param_n_clusters"], dtype=int)
    good = np.flatnonzero(scores >= 0.9 * scores.max())
    return good[sizes[good].argmin()]


search = GridSearchCV(
    DigPro(max_epochs=10 if quick else 20, batch_size=128, random_state=0),
    {"n_clusters": candidates},
    scoring={"silhouette": silhouette_scorer, "balance": balance_scorer},
    refit=smallest_good,
    cv=whole_data_split(X),
).fit(X)

# %%
# What the scores say, and what the rule takes:

results = search.cv_results_
silhouette = results["mean_test_silhouette"]
print("n_clusters  silhouette  balance")
for row in zip(candidates, silhouette, results["mean_test_balance"], strict=True):
    print("{:10d}  {:10.3f}  {:7.3f}".format(*row))
print("highest silhouette:", candidates[silhouette.argmax()], "clusters")
print("rule of thumb:     ", search.best_params_["n_clusters"], "clusters")

# %%
# The curve is steep while two digits share a cluster, and flattens from there on. The
# knee is the evidence; a curve without a knee means that the images do not say how
# many clusters they have.

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(candidates, silhouette, marker="o")
ax.axhline(0.9 * silhouette.max(), color="0.6", linestyle="--", label="nine tenths")
ax.set(xlabel="n_clusters", ylabel="silhouette", xticks=candidates)
ax.legend(frameon=False)

# %%
# Here we may look at the truth. On your own images look at a sheet of the clusters
# (:class:`~skdeepcluster.plots.ClusterSheetDisplay`) for two or three candidates:
# whether a class was split or two were merged is seen at once.

labels = search.best_estimator_.labels_
print(f"accuracy of the chosen one: {clustering_accuracy(digits, labels):.3f}")
