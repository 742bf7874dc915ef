"""One clustering of several runs, and how far these agree."""

from __future__ import annotations

from dataclasses import field
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.base import _fit_context, clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from ._engine.randomness import make_seed
from ._meta import MetaClusterer, can
from ._parameters import AtLeastTwo, RandomState

Clusterer = Annotated[Any, HasMethods(["fit", "fit_predict"]), "clusterer"]

# -- runs that are compared ------------------------------------------------------------


def overlaps(labels, reference, n_labels, n_clusters) -> NDArray[np.int64]:
    """Count the samples of each pair of clusters; -1 is none.

    Parameters
    ----------
    labels, reference : ndarray of shape (n,), int64
    n_labels, n_clusters : int
        Above all of ``labels``, and of ``reference``.

    Returns
    -------
    table : ndarray of shape (n_labels, n_clusters), int64
    """
    both = (labels >= 0) & (reference >= 0)
    pairs = labels[both] * n_clusters + reference[both]
    return np.bincount(pairs, minlength=n_labels * n_clusters).reshape(
        n_labels, n_clusters
    )


def matched(table) -> NDArray[np.int64]:
    """Match the clusters of a run with those of the consensus, by their overlaps.

    Of all one-to-one matchings it is the one with the most samples in common. Clusters
    of the run that are left over, since it has more, join those with which they have
    most in common.

    Parameters
    ----------
    table : ndarray of shape (n_labels, n_clusters)
        As :func:`overlaps` counts.

    Returns
    -------
    clusters : ndarray of shape (n_labels,), int64
    """
    clusters = table.argmax(axis=1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    clusters[rows] = columns
    return clusters


def best_jaccard(table) -> NDArray[np.float64]:
    """Share of each cluster with its best match: intersection over union.

    Parameters
    ----------
    table : ndarray of shape (n_labels, n_clusters)
        As :func:`overlaps` counts.

    Returns
    -------
    jaccard : ndarray of shape (n_clusters,), float64
    """
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0) - table
    return (table / np.maximum(union, 1)).max(axis=0)


def pairwise_ari(runs) -> NDArray[np.float64]:
    """Adjusted Rand index of each pair of runs.

    Parameters
    ----------
    runs : list of S ndarrays of shape (n,)
        Labels.

    Returns
    -------
    ari : ndarray of shape (S, S), float64
        Symmetric, with 1 on the diagonal.
    """
    ari = np.eye(len(runs))
    for i, j in zip(*np.triu_indices(len(runs), 1), strict=True):
        ari[i, j] = ari[j, i] = adjusted_rand_score(runs[i], runs[j])
    return ari


def most_central(ari) -> int:
    """Find the run that agrees most with the others, on average."""
    return int(ari.sum(axis=1).argmax())


def vote(votes, matches, n_clusters) -> NDArray[np.float64]:
    """Average the votes of the runs, each brought to the clusters of the consensus.

    Parameters
    ----------
    votes : list of S ndarrays of shape (n, n_labels)
        Probabilities; a row of NaN abstains.
    matches : list of S ndarrays of shape (n_labels,), int64
        As :func:`matched` finds.
    n_clusters : int

    Returns
    -------
    proba : ndarray of shape (n, n_clusters), float64
        NaN where most of the runs abstain.
    """
    total = np.zeros((len(votes[0]), n_clusters))
    n_votes = np.zeros((len(total), 1))
    for part, match in zip(votes, matches, strict=True):
        given = ~np.isnan(part).any(axis=1, keepdims=True)
        total += np.where(given, part, 0) @ np.eye(n_clusters)[match]
        n_votes += given
    return np.where(2 * n_votes < len(votes), np.nan, total / np.maximum(n_votes, 1))


def most_voted(proba) -> NDArray[np.int64]:
    """Label of the highest share, the first of equal ones; -1 in a row of NaN."""
    labels = np.where(np.isnan(proba), -1, proba).argmax(axis=1)
    return np.where(np.isnan(proba).any(axis=1), -1, labels).astype(np.int64)


def agreement(runs, matches, labels) -> NDArray[np.float64]:
    """Share of the runs that agree with each label.

    Parameters
    ----------
    runs : list of S ndarrays of shape (n,)
        Labels of the runs.
    matches : list of S ndarrays of shape (n_labels,), int64
        As :func:`matched` finds.
    labels : ndarray of shape (n,), int64

    Returns
    -------
    agreement : ndarray of shape (n,), float64
        In [0, 1].
    """
    agree = [
        np.where(one >= 0, match[one], -1) == labels
        for one, match in zip(runs, matches, strict=True)
    ]
    return np.mean(agree, axis=0)


# -- the estimator ---------------------------------------------------------------------


class ConsensusClusterer(MetaClusterer):
    """Clusterer that runs another one several times, and lets the runs vote.

    What a clustering finds depends on its seed. The runs are numbered alike, after the
    one that agrees most with the others; then each sample goes to the cluster with the
    highest mean probability. Where the runs disagree, one run is not to be trusted:
    ``agreement_`` says it of each sample, ``cluster_agreement_`` of each cluster.

    Any clusterer of scikit-learn's kind that has a ``random_state`` can be used, a
    pipeline as well. If it has no ``predict_proba``, each run has one vote. A sample to
    which most of the runs give no label has label -1.

    Parameters
    ----------
    estimator
        Clusterer with a ``random_state``, its own or that of a step, which is replaced
        in each run. It is cloned.
    n_runs
        Number of runs.
    n_jobs
        Runs beside each other, in processes of their own; None is 1, and -1 all cores.
        A training of a network has use for all cores already.
    random_state
        Seed of the seeds of the runs. With the same one the result is the same.

    Attributes
    ----------
    labels_ : ndarray of shape (n,), int64
        Cluster of each sample, consecutive from 0; -1 where most of the runs give none.
    agreement_ : ndarray of shape (n,), float64
        Share of the runs that agree with the label of a sample, in [0, 1].
    cluster_agreement_ : ndarray of shape (n_clusters,), float64
        For each cluster, the mean over the runs of its Jaccard index with the most
        similar cluster of the run, in [0, 1]. Below about 0.5, a cluster is no more
        than an accident of the seed; above about 0.75, it is found again (Hennig).
    pairwise_ari_ : ndarray of shape (n_runs, n_runs), float64
        Adjusted Rand index of each pair of runs.
    estimators_ : list of n_runs objects
        The fitted clusterers.
    estimator_ : object
        The one among them that agrees most with the others.

    See Also
    --------
    SelectiveClusterer : Leave out what is uncertain: it takes this one, too.

    Notes
    -----
    A clusterer with a ``checkpoint`` keeps each run in a folder of its own within that
    one: with an integer as ``random_state``, a ``fit`` that was killed goes on.

    References
    ----------
    Alexander Strehl and Joydeep Ghosh, *Cluster ensembles: a knowledge reuse framework
    for combining multiple partitions*, JMLR, 2002.

    Evgenia Dimitriadou, Andreas Weingessel and Kurt Hornik, *A combination scheme for
    fuzzy clustering*, International Journal of Pattern Recognition and Artificial
    Intelligence, 2002.

    Christian Hennig, *Cluster-wise assessment of cluster stability*, Computational
    Statistics & Data Analysis, 2007.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import make_blobs
    >>> from skdeepcluster import ConsensusClusterer
    >>> X, _ = make_blobs(200, centers=3, random_state=1)
    >>> model = ConsensusClusterer(KMeans(3), random_state=0).fit(X)
    >>> model.cluster_agreement_
    array([1., 1., 1.])
    >>> float(model.agreement_.min())
    1.0
    """

    estimator: Clusterer = field(kw_only=False)
    n_runs: AtLeastTwo = 5
    n_jobs: int | None = None
    random_state: RandomState = None

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the clusterer once for each seed, and let the runs vote.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.
        y : ignored by clusterers
            Handed on to the clusterer.

        Returns
        -------
        self : ConsensusClusterer

        Raises
        ------
        ValueError
            If a parameter is out of its range, the clusterer has no ``random_state``,
            or most runs give no label to any sample.
        """
        runs = Parallel(n_jobs=self.n_jobs)(
            delayed(_run)(estimator, X, y) for estimator in self._seeded()
        )
        estimators, labels, votes = map(list, zip(*runs, strict=True))
        ari = pairwise_ari(labels)
        central = most_central(ari)
        consensus = labels[central]
        while True:
            found, numbers = np.unique(consensus, return_inverse=True)
            consensus = numbers - np.sum(found < 0)
            n_clusters = int(consensus.max()) + 1
            if n_clusters == 0:
                raise ValueError(
                    f"Most runs of {type(self.estimator).__name__} give no sample a "
                    "label: there is nothing to vote on. Check its parameters."
                )
            tables = [
                overlaps(one, consensus, part.shape[1], n_clusters)
                for one, part in zip(labels, votes, strict=True)
            ]
            matches = [matched(table) for table in tables]
            consensus = most_voted(vote(votes, matches, n_clusters))
            if len(np.unique(consensus[consensus >= 0])) == n_clusters:
                break  # else the samples of a cluster that won nowhere vote again
        jaccard = [
            best_jaccard(overlaps(one, consensus, part.shape[1], n_clusters))
            for one, part in zip(labels, votes, strict=True)
        ]
        self.estimators_, self.estimator_ = estimators, estimators[central]
        self.labels_, self._matches = consensus, matches
        self.agreement_ = agreement(labels, matches, consensus)
        self.cluster_agreement_ = np.mean(jaccard, axis=0)
        self.pairwise_ari_ = ari
        return self

    def _seeded(self):
        """Return a clone for each run, with a seed of its own."""
        params = self.estimator.get_params()
        random = sorted(
            name for name in params if name.rpartition("__")[2] == "random_state"
        )
        if not random:
            raise ValueError(
                f"{type(self.estimator).__name__} has no parameter random_state, so "
                "that all runs would be the same. Pass a clusterer that draws at "
                "random, such as KMeans."
            )
        folders = {
            name: folder
            for name, folder in params.items()
            if name.rpartition("__")[2] == "checkpoint"
            and isinstance(folder, (str, PathLike))
        }
        rng = np.random.RandomState(make_seed(self.random_state))
        for number in range(self.n_runs):
            seeds = {name: int(rng.randint(2**31 - 1)) for name in random}
            own = {name: Path(f) / f"run_{number}" for name, f in folders.items()}
            yield clone(self.estimator).set_params(**seeds, **own)

    @can("predict")
    def predict(self, X):
        """Assign samples to clusters, by the votes of all runs.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.

        Returns
        -------
        labels : ndarray of shape (n,), int64
            -1 where most of the runs give no label.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        return most_voted(self.predict_proba(X))

    @can("predict")
    def predict_proba(self, X):
        """Give the probability of each cluster: the mean over the runs.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.

        Returns
        -------
        proba : ndarray of shape (n, n_clusters), float64
            Shares of the votes, if the clusterer has no ``predict_proba``. NaN where
            most of the runs give no label.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        votes = [
            _votes(one, X, n_labels=len(match))
            for one, match in zip(self.estimators_, self._matches, strict=True)
        ]
        return vote(votes, self._matches, len(self.cluster_agreement_))

    @can("predict")
    def predict_agreement(self, X):
        """Give the share of the runs that agree with :meth:`predict`.

        Of the samples of ``fit`` it is ``agreement_``, if the clusterer labels these as
        it did when it was fitted.

        Parameters
        ----------
        X : array-like or list of paths
            Whatever the clusterer takes.

        Returns
        -------
        agreement : ndarray of shape (n,), float64
            In [0, 1].

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        labels = self.predict(X)
        runs = [
            _known(np.asarray(one.predict(X)), len(match))
            for one, match in zip(self.estimators_, self._matches, strict=True)
        ]
        return agreement(runs, self._matches, labels)


def _run(estimator, X, y):
    """Fit one clusterer; return it, with its labels and votes."""
    labels = np.asarray(estimator.fit_predict(X, y)).astype(np.int64)
    if hasattr(estimator, "predict_proba"):
        return estimator, labels, _votes(estimator, X)
    return estimator, labels, _one_hot(labels, max(1, labels.max() + 1))


def _votes(estimator, X, n_labels=None):
    """Return the votes (n, n_labels) of one clusterer; rows without a label are NaN."""
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(X), dtype=np.float64)
    return _one_hot(np.asarray(estimator.predict(X)), n_labels)


def _one_hot(labels, n_labels):
    labels = _known(labels, n_labels)
    return np.where((labels < 0)[:, None], np.nan, np.eye(n_labels)[labels])


def _known(labels, n_labels):
    """Take labels that a run gave to no sample of ``fit`` for none."""
    return np.where(labels < n_labels, labels, -1)
