"""The rows of the tables: peers, and for features also ours as they are.

A row is what is made of the data first, shared by the rows that name the same, and the
estimator that clusters that: ``(first, make(n_clusters, seed))``. ``METHODS`` are the
rows on features, ``PIXELS`` the peers on images: rows of pixels from 0 to 1. Settings
of the peers that are not their defaults were chosen by ACC, never on other data of the
tables: for features on 5000 training images each of CIFAR-10 and of Imagenette, for
pixels on 5000 each of MNIST and of Fashion-MNIST.
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
STEPS = (
    800  # the same on pixels, in steps of BATCH images; of 200, 400 and 800 the best
)
BATCH = 256  # ClustPy's default


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

    threads = torch.get_num_threads()
    X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    UMAP(
        n_neighbors=30,
        metric="cosine",
        n_jobs=1,
        random_state=0,
        force_approximation_algorithm=True,
    ).fit(X)
    torch.set_num_threads(threads)  # numba changes it


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


def clustpy_method(name, n_clusters, epochs, seed):
    """A method of ClustPy, for as many epochs before there are clusters as after."""
    from clustpy import deep

    return getattr(deep, name)(
        n_clusters=n_clusters,
        batch_size=BATCH,
        pretrain_epochs=epochs,
        clustering_epochs=epochs,
        device=torch.device("cpu"),
        random_state=seed,
    )


def clustpy(name, scaler=None):
    """A method of ClustPy, for few epochs, on centred rows where nothing is said."""
    return lambda n_clusters, seed: make_pipeline(
        FunctionTransformer(centred) if scaler is None else scaler(),
        clustpy_method(name, n_clusters, EPOCHS, seed),
    )


def epochs_on_pixels(X):
    """Epochs of about ``STEPS`` steps: few images need as many as many."""
    return max(1, round(STEPS / np.ceil(len(X) / BATCH)))


class OnPixels(ClusterMixin, BaseEstimator):
    """A method of ClustPy, for ``STEPS`` steps, on rows as they are."""

    def __init__(self, name, n_clusters, random_state=None):
        self.name = name
        self.n_clusters = n_clusters
        self.random_state = random_state

    def fit(self, X, y=None):
        model = clustpy_method(
            self.name, self.n_clusters, epochs_on_pixels(X), self.random_state
        )
        self.labels_ = model.fit(X).labels_
        return self


def on_pixels(name):
    return lambda n_clusters, seed: OnPixels(name, n_clusters, seed)


def autoencoder(X, seed):
    """Codes of the autoencoder that ClustPy's methods begin with."""
    from clustpy.deep import get_dataloader, get_trained_network

    network = get_trained_network(
        get_dataloader(X.astype(np.float32), BATCH, shuffle=True),
        n_epochs=epochs_on_pixels(X),
        device=torch.device("cpu"),
        random_state=seed,
    )
    return network.transform(X)


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
PIXELS = {
    **{
        name: PEERS[name]
        for name in ("k-means", "spectral", "UMAP + k-means", "UMAP + Gaussian mixture")
    },
    "autoencoder + k-means": (autoencoder, k_means),
    **{name: (None, on_pixels(name)) for name in ("DEC", "IDEC", "DCN", "VaDE")},
}
