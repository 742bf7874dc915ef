"""What speaks for a number of clusters, without labels: one number for each fit."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.sparse import issparse
from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score
from sklearn.preprocessing import normalize

N_COMPONENTS = 16  # of the reduced space
N_NEIGHBORS = 10  # of the classifier
MAX_PAIRS = 2000  # samples whose distances are all computed
NO_CLUSTERS = -1.0  # silhouette where it is undefined


def reduced(Z, seed):
    """Reduce rows to a space whose silhouettes were found to tell most.

    Of more than 16 features the first 16 principal components, and of these the
    directions from the mean: distances between many noisy features are all alike, and
    lengths tell how typical a sample is rather than what it is.

    Parameters
    ----------
    Z : ndarray or sparse matrix of shape (n, d)
    seed : int
        Of the randomised decomposition of large data.

    Returns
    -------
    space : ndarray of shape (n, min(d, 16))
        Few features stay as they are: two clusters can lie in one direction there.
    """
    if Z.shape[1] <= N_COMPONENTS:
        return Z.toarray() if issparse(Z) else np.asarray(Z)
    from sklearn.decomposition import PCA

    n_components = min(N_COMPONENTS, Z.shape[0])
    Z = Z.toarray() if issparse(Z) else Z
    return normalize(PCA(n_components, random_state=seed).fit_transform(Z))


class Silhouettes:
    """Silhouettes of many clusterings in one space, of a fixed sample of the rows.

    Parameters
    ----------
    space : ndarray of shape (n, d)
    rng : RandomState
        Draws the sample, if there are more than 2000 rows.
    """

    def __init__(self, space, rng):
        n = len(space)
        drawn = rng.choice(n, MAX_PAIRS, replace=False) if n > MAX_PAIRS else range(n)
        self.rows = np.sort(drawn)
        self.distances = pairwise_distances(space[self.rows])
        np.fill_diagonal(self.distances, 0)  # as precomputed ones have to be

    def of(self, labels) -> float:
        """Mean silhouette; -1 of one cluster, or of as many as samples.

        Samples with the label -1 are in no cluster, and do not count.
        """
        labels = labels[self.rows]
        kept = np.flatnonzero(labels >= 0)
        labels, distances = labels[kept], self.distances[np.ix_(kept, kept)]
        if not 1 < len(np.unique(labels)) < len(labels):
            return NO_CLUSTERS
        return float(silhouette_score(distances, labels, metric="precomputed"))


def stability(clusterings) -> list[float]:
    """Agreement of clusterings of the same rows, pair by pair.

    Parameters
    ----------
    clusterings : sequence of ndarrays of shape (n,)

    Returns
    -------
    agreements : list of float
        Adjusted Rand index of each pair: 1 for the same partition, 0 for chance.
    """
    return [float(adjusted_rand_score(a, b)) for a, b in combinations(clusterings, 2)]


def generalization(space, labels, rows, others) -> float:
    """Tell how well neighbours alone predict the labels of rows they do not belong to.

    Parameters
    ----------
    space : ndarray of shape (n, d)
    labels : ndarray of shape (n,)
        What a clusterer that was fitted to ``rows`` says of all of them.
    rows, others : ndarrays of int
        Those of the classifier, and those on which it is asked.

    Returns
    -------
    agreement : float
        Adjusted Rand index of the classifier's labels and the clusterer's.
    """
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(min(N_NEIGHBORS, len(rows)))
    guessed = classifier.fit(space[rows], labels[rows]).predict(space[others])
    return float(adjusted_rand_score(labels[others], guessed))
