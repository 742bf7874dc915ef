"""The rows of the table on features: peers, and ours as they are.

A row of ``METHODS`` is what is made of the features first, shared by the rows that name
the same, and the estimator that clusters that: ``(first, make(n_clusters, seed))``.
Settings of the peers that are not their defaults were chosen by ACC on 5000 training
images each of CIFAR-10 and of Imagenette, never on the other data of the table.
"""

import numpy as np
import torch
from heads import SCANHead, TEMIHead, scaled
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import HDBSCAN, KMeans, SpectralClustering
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    Normalizer,
    StandardScaler,
)

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC

EPOCHS = 5  # of ClustPy's methods, before and after the clusters are there


def umap(X, seed):
    """Ten dimensions of UMAP, by the cosine; one thread, since there is a seed."""
    from umap import UMAP

    return UMAP(
        n_neighbors=30,
        n_components=10,
        min_dist=0.0,
        metric="cosine",
        n_jobs=1,
        random_state=seed,
    ).fit_transform(X)


def warm_up():
    """Let numba compile UMAP before anything is timed."""
    from umap import UMAP

    X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    UMAP(
        n_neighbors=30,
        metric="cosine",
        n_jobs=1,
        random_state=0,
        force_approximation_algorithm=True,
    ).fit(X)


class DenseGroups(ClusterMixin, BaseEstimator):
    """HDBSCAN whose noise goes to the cluster with the nearest mean.

    It is not told the number of clusters, but the smallest share that may be one.
    """

    def __init__(self, smallest=0.04, min_samples=30):
        self.smallest = smallest
        self.min_samples = min_samples

    def fit(self, X, y=None):
        size = max(2, round(self.smallest * len(X)))
        model = HDBSCAN(
            min_cluster_size=size,
            min_samples=self.min_samples,
            cluster_selection_method="leaf",  # by mass, few clusters are left
            copy=True,
        )
        self.labels_ = model.fit_predict(X)
        noise = self.labels_ < 0
        self.noise_ = float(noise.mean())
        n_clusters = len(np.unique(self.labels_[~noise]))
        if n_clusters < 2:
            self.labels_ = np.zeros(len(X), dtype=int)
        elif noise.any():
            means = NearestCentroid().fit(X[~noise], self.labels_[~noise])
            self.labels_[noise] = means.predict(X[noise])
        return self


def k_means(n_clusters, seed):
    return KMeans(n_clusters, n_init=10, random_state=seed)


def mixture(n_clusters, seed):
    return GaussianMixture(n_clusters, n_init=5, random_state=seed)


def spectral(n_clusters, seed):
    return SpectralClustering(
        n_clusters, affinity="nearest_neighbors", n_neighbors=15, random_state=seed
    )


def after(*steps):
    """A clusterer behind steps that need no seed."""

    def behind(make):
        return lambda n_clusters, seed: make_pipeline(*steps, make(n_clusters, seed))

    return behind


def centred(X):
    """Centred rows of one length, at which a feature has a variance of about 1."""
    return scaled(torch.from_numpy(np.asarray(X)), "l2").numpy()


def clustpy(name, scaler=None):
    """A method of ClustPy, for few epochs, on centred rows where nothing is said."""

    def make(n_clusters, seed):
        from clustpy import deep

        return make_pipeline(
            FunctionTransformer(centred) if scaler is None else scaler(),
            getattr(deep, name)(
                n_clusters=n_clusters,
                pretrain_epochs=EPOCHS,
                clustering_epochs=EPOCHS,
                device=torch.device("cpu"),
                random_state=seed,
            ),
        )

    return make


def ours(cls, **params):
    """An estimator of the package, with its defaults where ``params`` is silent."""
    return lambda n_clusters, seed: cls(
        n_clusters=n_clusters, random_state=seed, **params
    )


PEERS = {
    "k-means": (None, k_means),
    "k-means, L2-normalised": (None, after(Normalizer())(k_means)),
    "k-means, standardised": (None, after(StandardScaler())(k_means)),
    "Gaussian mixture": (None, after(Normalizer(), PCA(30, random_state=0))(mixture)),
    "spectral": (None, spectral),
    "UMAP + k-means": (umap, k_means),
    "UMAP + Gaussian mixture": (umap, mixture),
    "UMAP + HDBSCAN": (umap, lambda n_clusters, seed: DenseGroups()),
    "SCAN head": (None, lambda k, seed: SCANHead(k, random_state=seed)),
    "TEMI head": (None, lambda k, seed: TEMIHead(k, random_state=seed)),
    "DEC": (None, clustpy("DEC")),
    "IDEC": (None, clustpy("IDEC")),
    "DCN": (None, clustpy("DCN")),
    "DKM": (None, clustpy("DKM")),
    "ACeDeC": (None, clustpy("ACeDeC")),
    "DipEncoder": (None, clustpy("DipEncoder")),
    "VaDE": (None, clustpy("VaDE", MinMaxScaler)),
}
OURS = {
    "DigPro": (None, ours(DigPro)),
    "SCL": (None, ours(SCL)),
    "StatDEC": (None, ours(StatDEC)),
    "GCC": (None, ours(GCC)),
    "GCC, real bank": (None, ours(GCC, bank="real")),
    "MFCVAE, one facet": (None, ours(MFCVAE, n_facets=1)),
    "MFCVAE, two facets": (None, ours(MFCVAE, n_facets=2)),
}
ABLATIONS = {  # of what the defaults are for vectors
    "DigPro, with groups": (None, ours(DigPro, group_weight=0.3, warmup=0.3)),
    "DigPro, clusters by the graph": (None, ours(DigPro, e_step="graph")),
    "DigPro, views by noise": (None, ours(DigPro, augment="vector")),
    "DigPro, not standardised": (None, ours(DigPro, standardize=False)),
    "SCL, views by noise": (None, ours(SCL, augment="vector")),
}
OURS |= ABLATIONS
METHODS = {**PEERS, **OURS}
