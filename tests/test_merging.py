"""Many clusters that are merged step by step."""

import numpy as np
import pytest
from estimators import fitted, make_stripes
from scipy.cluster.hierarchy import fcluster, is_valid_linkage, linkage
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepcluster.model_selection import MergeTree

X = np.random.default_rng(0).normal(size=(60, 3))


@pytest.mark.parametrize("method", ["ward", "average"])
def test_clusters_of_one_sample_merge_as_in_scipy(method):
    tree = MergeTree(X, np.arange(60), method=method)
    np.testing.assert_allclose(tree.linkage_, linkage(X, method))
    assert tree.sizes_.tolist() == [1] * 60


def test_ward_goes_on_where_the_tree_of_the_samples_was_cut():
    # with sizes, the merger of clusters costs what it costs their samples
    whole = linkage(X, "ward")
    tree = MergeTree(X, fcluster(whole, 12, "maxclust"))
    assert is_valid_linkage(tree.linkage_)
    np.testing.assert_allclose(tree.linkage_[:, 2], whole[-11:, 2])
    for k in range(1, 13):
        direct = fcluster(whole, k, "maxclust")
        assert adjusted_rand_score(direct, tree.labels_at(k)) == 1.0


def test_average_weighs_centres_by_their_sizes():
    # 0 and 1 merge first; what they are, seen from 8, is three to one at 0
    rows, labels = [[0.0], [0.0], [0.0], [1.0], [8.0]], [0, 0, 0, 1, 2]
    tree = MergeTree(rows, labels, method="average")
    np.testing.assert_allclose(
        tree.linkage_, [[0, 1, 1, 2], [2, 3, (3 * 8 + 7) / 4, 3]]
    )
    # Ward's, in scipy's convention: the root of twice what the sum of squares gains
    ward = MergeTree(rows, labels).linkage_[:, 2]
    gains = 3 * 1 / 4 * 1.0, 4 * 1 / 5 * (8 - 0.25) ** 2
    np.testing.assert_allclose(ward, np.sqrt(2 * np.array(gains)))


def test_labels_are_numbered_by_their_first_leaves():
    tree = MergeTree([[9.0], [0.0], [5.0], [0.5], [np.nan], [9.5]], [7, 2, 4, 2, -1, 9])
    assert tree.sizes_.tolist() == [2, 1, 1, 1]
    assert [m.tolist() for m in tree.members_] == [[1, 3], [2], [0], [5]]
    np.testing.assert_array_equal(tree.centers_.ravel(), [0.25, 5, 9, 9.5])
    assert tree.labels_at(4).tolist() == [2, 0, 1, 0, -1, 3]
    assert tree.labels_at(3).tolist() == [2, 0, 1, 0, -1, 2]
    assert tree.leaves_at(2).tolist() == [0, 1, 1, 1]
    assert set(tree.labels_at(1).tolist()) == {0, -1}


def test_members_begin_with_the_most_typical():
    tree = MergeTree([[0.0], [3.0], [1.0], [9.0]], [0, 0, 0, 1])
    assert tree.members_[0].tolist() == [2, 0, 1]  # of the mean 4 / 3


def test_estimators_are_merged_where_they_are_comparable():
    images, _ = make_stripes()
    model = fitted("DigPro")
    tree = MergeTree.from_estimator(model, images)
    embedding = model.transform(images)
    expected = MergeTree(embedding, model.labels_)
    np.testing.assert_array_equal(tree.linkage_, expected.linkage_)
    pipeline = make_pipeline(StandardScaler(), KMeans(5, n_init=1, random_state=0))
    pipeline.fit(X * 9)
    tree = MergeTree.from_estimator(pipeline, X * 9)
    np.testing.assert_allclose(
        tree.centers_, pipeline[-1].cluster_centers_, atol=1e-9
    )  # of the scaled rows, not of the distances


def test_errors():
    with pytest.raises(ValueError, match="method='median'"):
        MergeTree(X, np.arange(60), method="median")
    with pytest.raises(ValueError, match="Got 1 cluster, "):
        MergeTree(X, np.zeros(60))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MergeTree(X, np.arange(59))
    tree = MergeTree(X, np.arange(60) % 5)
    for k in (0, 6, 2.5, "a"):
        with pytest.raises(
            ValueError, match=f"n_clusters={k!r} should be a whole number"
        ):
            tree.labels_at(k)
