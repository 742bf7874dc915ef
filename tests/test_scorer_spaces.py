"""Scores of a clustering are measured where numbers of clusters can be compared."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.cluster import Birch, KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster.metrics import (
    davies_bouldin_scorer,
    silhouette_scorer,
    whole_data_split,
)


@pytest.mark.parametrize(
    "clusterer",
    [
        KMeans(5, n_init=1, random_state=0),
        make_pipeline(StandardScaler(), KMeans(5, n_init=1, random_state=0)),
        Birch(n_clusters=5),
        GaussianMixture(5, random_state=0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_scores_do_not_depend_on_how_many_centres_there_are_distances_to(clusterer):
    X, _ = make_blobs(90, centers=3, n_features=5, cluster_std=3.0, random_state=0)
    labels = clusterer.fit(X).predict(X)
    rows = clusterer[0].transform(X) if hasattr(clusterer, "steps") else X
    assert silhouette_scorer(clusterer, X) == pytest.approx(
        silhouette_score(rows, labels)
    )
    assert davies_bouldin_scorer(clusterer, X) == pytest.approx(
        -davies_bouldin_score(rows, labels)
    )


def test_rows_that_are_no_numbers_are_no_space():
    class Words:
        def predict(self, X):
            return np.arange(len(X))

    with pytest.raises(TypeError, match="Words embeds nothing.*rows of numbers"):
        silhouette_scorer(Words(), ["a", "b"])


def test_sparse_rows_and_searches():
    X, _ = make_blobs(90, centers=3, n_features=5, cluster_std=3.0, random_state=0)
    kmeans = KMeans(4, n_init=1, random_state=0).fit(X)
    expected = silhouette_score(X, kmeans.labels_)
    again = KMeans(4, n_init=1, random_state=0).fit(csr_matrix(X))
    assert silhouette_scorer(again, csr_matrix(X)) == pytest.approx(
        silhouette_score(X, again.labels_)
    )
    search = GridSearchCV(
        kmeans,
        {"n_clusters": [4]},
        scoring=silhouette_scorer,
        cv=whole_data_split(X),
    ).fit(X)
    assert search.best_score_ == silhouette_scorer(search, X)
    assert search.best_score_ == pytest.approx(expected)
