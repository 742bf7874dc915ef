"""
How many clusters?
==================

Nobody says how many clusters there are. We gather what speaks for each number, without
labels: the agreement of two halves of the data, and how separate the clusters are. Then
we look at a tree of clusters that merge.
"""

import sys

from skdeepcluster import DigPro
from skdeepcluster.datasets import load_digits_images
from skdeepcluster.metrics import clustering_accuracy
from skdeepcluster.model_selection import MergeTree, NClustersSearch
from skdeepcluster.plots import DendrogramDisplay, NClustersDisplay

quick = "--quick" in sys.argv

# %%
# The data: the digits 0 to 4, so that we know what the search should find.

X, digits = load_digits_images()
X, digits = X[digits < 5], digits[digits < 5]

# %%
# The search trains DigPro once, and tries all numbers by k-means in the embedding that
# it has learnt. Then it trains DigPro for the number that it chose.

model = DigPro(max_epochs=10 if quick else 20, batch_size=128, random_state=0)
search = NClustersSearch(model, range(2, 11), random_state=0).fit(X)

print(search.n_clusters_, "clusters, confidence", search.confidence_)
print(search.reason_)
print("numbers to look at:", search.candidates_)

# %%
# The curves. Below five, clusters hold two digits, and which two depends on the draw.
# At six and seven the ones fall apart into those with a foot, with a roof, and bare
# strokes: nothing says that a digit is one cluster. The smallest cluster tells it, and
# so does a look at the images.

NClustersDisplay.from_search(search)

# %%
# Rather look than count? Twelve clusters are more than there are digits. What looks
# alike merges first; the dashed line is where five are left.

many = DigPro(12, max_epochs=10 if quick else 20, batch_size=128, random_state=0).fit(X)
DendrogramDisplay.from_estimator(many, X, n_clusters=5)

# %%
# Here we may look at the truth.

merged = MergeTree.from_estimator(many, X).labels_at(5)
print(f"accuracy of the chosen one: {clustering_accuracy(digits, search.labels_):.3f}")
print(f"twelve, merged to five:     {clustering_accuracy(digits, merged):.3f}")
