"""
Features for a classifier
=========================

Many images, few labels: DigPro learns an embedding from all images, a pipeline of
scikit-learn learns from the few labels in it.
"""

import sys

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdeepcluster import DigPro
from skdeepcluster.datasets import load_digits_images

quick = "--quick" in sys.argv

# %%
# A third of the images is put aside for the test. Of the others, all are used without
# labels, and five of each digit with their label.

X, digits = load_digits_images()
X_train, X_test, y_train, y_test = train_test_split(
    X, digits, test_size=1 / 3, stratify=digits, random_state=0
)
few = np.concatenate([np.flatnonzero(y_train == digit)[:5] for digit in range(10)])
print(f"{len(X_train)} images for training, {len(few)} of them with a label")

# %%
# The clustering sees no label at all.

clusterer = DigPro(10, max_epochs=30 if quick else "auto", random_state=0).fit(X_train)

# %%
# Now two pipelines that end in the same classifier, and are fitted on the same few
# labels. ``FrozenEstimator`` keeps the first step as it is: ``fit`` of the pipeline
# calls ``transform`` of the fitted clusterer and trains only what follows.

pipelines = {
    "pixels": make_pipeline(
        FunctionTransformer(lambda images: images.reshape(len(images), -1)),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    ),
    "embedding": make_pipeline(
        FrozenEstimator(clusterer),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    ),
}
for name, pipeline in pipelines.items():
    pipeline.fit(X_train[few], y_train[few])
    print(f"{name:10} accuracy on the test set: {pipeline.score(X_test, y_test):.3f}")

# %%
# The embedding can also be looked at as a table: ``set_output`` works as on any
# transformer of scikit-learn.

print(clusterer.get_feature_names_out()[:3], clusterer.transform(X_test).shape)
