"""The number of clusters, chosen without labels."""

import pickle

import numpy as np
import pytest
from estimators import make_stripes
from PIL import Image
from sklearn.base import BaseEstimator, ClusterMixin, clone, is_clusterer
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from toy import Toy

from skdeepcluster import SelectiveClusterer
from skdeepcluster.metrics import silhouette_scorer, whole_data_split
from skdeepcluster.model_selection import NClustersSearch, select_n_clusters
from skdeepcluster.model_selection._choice import choose
from skdeepcluster.model_selection._evidence import (
    Silhouettes,
    generalization,
    reduced,
    stability,
)

X, Y = make_blobs(240, centers=4, n_features=3, cluster_std=0.8, random_state=3)
KMEANS = KMeans(n_init=3, random_state=0)


@parametrize_with_checks([NClustersSearch(KMEANS, [2, 3], n_splits=1, random_state=0)])
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)
