"""A user's code, for the type checker: `make types` reads it, nothing runs it.

An ``ignore`` that finds nothing to ignore is an error, too.
"""

from typing import assert_type

from skdeepcluster import GCC, MFCVAE, SCL, DigPro, StatDEC, __version__
from skdeepcluster.gcc import Generated

assert_type(__version__, str)

model = DigPro(10, group_weight=0.5, instance="alignment", max_epochs="auto")
assert_type(model.group_momentum, float)
MFCVAE((3, 4), n_facets=2, latent_dims=5, backbone="mlp")
GCC(n_clusters=3, bank=Generated(steps=100, sampler="ddim"), random_state=0)
SCL(3, n_negatives=None).fit([[0.0]]).predict([[0.0]])
StatDEC(3, cardinality=None).transform([[0.0]])

DigPro(group_weigth=0.5)  # type: ignore[call-arg]
DigPro(group_weight="large")  # type: ignore[arg-type]
DigPro(instance="contrastive")  # type: ignore[arg-type]
Generated(step=100)  # type: ignore[call-arg]
print(model.group_weigth)  # type: ignore[attr-defined]
print(model.labels_, model.history_, model.net_)  # fitted attributes are known
