"""The number of clusters, chosen without labels."""

from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdeepcluster.model_selection import NClustersSearch

X, Y = make_blobs(240, centers=4, n_features=3, cluster_std=0.8, random_state=3)
KMEANS = KMeans(n_init=3, random_state=0)


@parametrize_with_checks([NClustersSearch(KMEANS, [2, 3], n_splits=1, random_state=0)])
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)
