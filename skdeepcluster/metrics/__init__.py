"""Metrics of a clustering: against known classes, and scorers that need no labels.

The metrics take ``(labels_true, labels_pred)``, as those of :mod:`sklearn.metrics`
do; normalised mutual information and the adjusted Rand index are found there. The
scorers take ``(estimator, X, y=None)`` and go into ``scoring=`` of
:class:`~sklearn.model_selection.GridSearchCV`.
"""

from ._clustering import (
    balanced_clustering_accuracy,
    cluster_balance,
    clustering_accuracy,
    expected_calibration_error,
    per_class_recall,
)
from ._facets import facet_label_scores, purity_score
from ._scorers import (
    balance_scorer,
    balanced_clustering_accuracy_scorer,
    calibration_scorer,
    calinski_harabasz_scorer,
    clustering_accuracy_scorer,
    davies_bouldin_scorer,
    silhouette_scorer,
    whole_data_split,
)

__all__ = [
    "balance_scorer",
    "balanced_clustering_accuracy",
    "balanced_clustering_accuracy_scorer",
    "calibration_scorer",
    "calinski_harabasz_scorer",
    "cluster_balance",
    "clustering_accuracy",
    "clustering_accuracy_scorer",
    "davies_bouldin_scorer",
    "expected_calibration_error",
    "facet_label_scores",
    "per_class_recall",
    "purity_score",
    "silhouette_scorer",
    "whole_data_split",
]
