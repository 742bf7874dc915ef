"""Cluster heads on features that are given: peers, written from the published formulas.

``SCANHead`` and ``TEMIHead`` train small heads on pairs of a row and one of its nearest
neighbours. Of several heads, which are trained at once, the one of least loss counts.
``generalisation_score`` is TURTLE's measure of a clustering without labels.

Without arguments, the script asserts the formulas against values worked out by hand:

    python examples/benchmarks/heads.py
"""

import math

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import nn
from torch.nn import functional as F

FEW = 1e-8  # keeps logarithms finite


def nearest(X, n_neighbors, block=1024):
    """Indices (n, k) of each row's nearest other rows, by the cosine, exactly."""
    rows = F.normalize(X, dim=1)
    found = []
    for start in range(0, len(rows), block):
        cosine = rows[start : start + block] @ rows.T
        at = torch.arange(len(cosine))
        cosine[at, start + at] = -math.inf  # a row is no neighbour of itself
        found.append(cosine.topk(n_neighbors, dim=1).indices)
    return torch.cat(found)


def scaled(X, scaling):
    """Rows that are standardised, centred and of length 1, or as they are.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    scaling : {"standard", "l2", None}
    """
    if scaling is None:
        return X
    X = X - X.mean(0)
    if scaling == "standard":
        return X / X.std(0, correction=0).clamp_min(FEW)
    if scaling == "l2":  # by sqrt(d), so that a feature has a variance of about 1
        return F.normalize(X, dim=1) * X.shape[1] ** 0.5
    raise ValueError(f'scaling={scaling!r} should be "standard", "l2" or None.')


def scan_loss(p, near, entropy_weight):
    """Loss of SCAN for each head: disagreement of neighbours, less the entropy.

    Parameters
    ----------
    p, near : Tensor of shape (b, H, K)
        Probabilities of the rows, and of one neighbour of each.
    entropy_weight : float
        Of the entropy of the mean probabilities: it keeps the clusters alike in size.

    Returns
    -------
    loss : Tensor of shape (H,)
    """
    agreement = (p * near).sum(-1).clamp_min(FEW).log().mean(0)
    mean = p.mean(0)
    entropy = -(mean * mean.clamp_min(FEW).log()).sum(-1)
    return -agreement - entropy_weight * entropy


def temi_loss(log_q, log_q_near, log_t, log_t_near, prior, beta):
    """Loss of TEMI for each head: pointwise mutual information of neighbours.

    Parameters
    ----------
    log_q, log_q_near : Tensor of shape (b, H, K)
        Logarithms of the student's probabilities of the rows, and of a neighbour each.
    log_t, log_t_near : Tensor of shape (b, H, K)
        Those of the teacher.
    prior : Tensor of shape (H, K)
        The teacher's mean probabilities.
    beta : float
        Exponent of the product; below 1, clusters of unlike sizes are let live.

    Returns
    -------
    loss : Tensor of shape (H,)
    """

    def information(log_a, log_b):
        return (beta * (log_a + log_b) - prior.clamp_min(FEW).log()).logsumexp(-1)

    # how far the teachers of all heads take a pair for one of the same cluster
    weight = (log_t + log_t_near).exp().sum(-1).mean(1, keepdim=True)
    both = information(log_q, log_t_near) + information(log_q_near, log_t)
    return -(weight * both / 2).mean(0)


def momentum(n_steps, longest=0.996):
    """Momentum of a teacher that averages over about 1 % of the steps.

    The published .996 is about that for the 20 000 steps and more of the paper; in a
    few hundred steps, it would keep the teacher at its random start.
    """
    return min(longest, max(0.0, 1 - 100 / n_steps))


class Heads(ClusterMixin, BaseEstimator):
    """What both heads share: the pairs, the steps, and the choice of a head."""

    def fit(self, X, y=None):
        """Train the heads on pairs of neighbours, and keep the labels of the best.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        self : object
            With ``labels_`` (n,), and ``losses_`` (H,), one for each head.
        """
        X = validate_data(self, X, dtype=np.float32, ensure_min_samples=2)
        # sure heads have gradients so small that a processor takes ten times as long
        torch.set_flush_denormal(True)
        try:
            return self._fit(X)
        finally:
            torch.set_flush_denormal(False)

    def _fit(self, X):
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.generator_ = torch.Generator().manual_seed(seed)
        rows = scaled(torch.from_numpy(X), self.scaling)
        neighbours = nearest(rows, min(self.n_neighbors, len(rows) - 1))
        self._start(rows.shape[1])
        size = min(self.batch_size, len(rows))
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.n_steps):
            if len(order) < size:
                order = torch.randperm(len(rows), generator=self.generator_)
            batch, order = order[:size], order[size:]
            near = self._drawn(neighbours[batch])
            self._step(rows[batch], rows[near])
        with torch.no_grad():
            self.losses_, labels = self._end(rows, rows[self._drawn(neighbours)])
        self.labels_ = labels[:, int(self.losses_.argmin())].numpy()
        self.losses_ = self.losses_.numpy()
        del self.generator_
        return self

    def _drawn(self, neighbours):
        """One of the neighbours of each row, by chance."""
        n, k = neighbours.shape
        at = torch.randint(k, (n, 1), generator=self.generator_)
        return neighbours.gather(1, at).squeeze(1)

    def _normal(self, *shape):
        """A parameter for H layers of ``shape[-2]`` inputs, normal, scaled by them."""
        values = torch.randn(*shape, generator=self.generator_)
        return nn.Parameter(values / shape[-2] ** 0.5)


class SCANHead(Heads):
    """Linear heads whose clusters agree on neighbours and are alike in size.

    Parameters
    ----------
    n_clusters : int
    n_neighbors : int, default=20
    n_heads : int, default=10
    entropy_weight : float, default=5.0
    n_steps : int, default=500
    batch_size : int, default=512
    learning_rate : float, default=1e-3
        Of Adam.
    scaling : {"standard", "l2", None}, default="standard"
    random_state : int, RandomState or None, default=None

    References
    ----------
    Van Gansbeke et al., *SCAN: Learning to Classify Images without Labels*, 2020,
    section 2.2. The network below is frozen here, and self-labelling left out.
    """

    def __init__(
        self,
        n_clusters=8,
        n_neighbors=20,
        n_heads=10,
        entropy_weight=5.0,
        n_steps=500,
        batch_size=512,
        learning_rate=1e-3,
        scaling="standard",
        random_state=None,
    ):
        self.n_clusters = n_clusters
        self.n_neighbors = n_neighbors
        self.n_heads = n_heads
        self.entropy_weight = entropy_weight
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.scaling = scaling
        self.random_state = random_state

    def _start(self, n_features):
        self.weight_ = self._normal(n_features, self.n_heads * self.n_clusters)
        self.bias_ = nn.Parameter(torch.zeros(self.n_heads * self.n_clusters))
        self.optimizer_ = torch.optim.Adam(
            [self.weight_, self.bias_], lr=self.learning_rate
        )

    def _probabilities(self, x):
        scores = x @ self.weight_ + self.bias_
        return scores.view(len(x), self.n_heads, self.n_clusters).softmax(-1)

    def _step(self, x, near):
        p, p_near = self._probabilities(torch.cat([x, near])).chunk(2)
        loss = scan_loss(p, p_near, self.entropy_weight).sum()
        self.optimizer_.zero_grad()
        loss.backward()
        self.optimizer_.step()

    def _end(self, x, near):
        p = self._probabilities(x)
        losses = scan_loss(p, self._probabilities(near), self.entropy_weight)
        del self.optimizer_
        return losses, p.argmax(-1)


class TEMIHead(Heads):
    """Heads of three layers that find the mutual information of neighbours.

    Parameters
    ----------
    n_clusters : int
    n_neighbors : int, default=20
    n_heads : int, default=4
    hidden, bottleneck : int, default=512 and 256
        Widths of the first two layers.
    beta : float, default=0.6
    temperature : float, default=0.1
    n_steps : int, default=400
    batch_size : int, default=256
    learning_rate : float, default=3e-4
        Of AdamW.
    scaling : {"standard", "l2", None}, default="standard"
    random_state : int, RandomState or None, default=None

    References
    ----------
    Adaloglou et al., *Exploring the Limits of Deep Image Clustering using Pretrained
    Models*, 2023, section 3.
    """

    def __init__(
        self,
        n_clusters=8,
        n_neighbors=20,
        n_heads=4,
        hidden=512,
        bottleneck=256,
        beta=0.6,
        temperature=0.1,
        n_steps=400,
        batch_size=256,
        learning_rate=3e-4,
        scaling="standard",
        random_state=None,
    ):
        self.n_clusters = n_clusters
        self.n_neighbors = n_neighbors
        self.n_heads = n_heads
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.beta = beta
        self.temperature = temperature
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.scaling = scaling
        self.random_state = random_state

    def _start(self, n_features):
        H, h, b = self.n_heads, self.hidden, self.bottleneck
        self.student_ = [
            self._normal(n_features, H * h),
            nn.Parameter(torch.zeros(H * h)),
            self._normal(H, h, b),
            nn.Parameter(torch.zeros(H, 1, b)),
            self._normal(H, b, self.n_clusters),
        ]
        self.teacher_ = [layer.detach().clone() for layer in self.student_]
        self.prior_ = torch.full((H, self.n_clusters), 1 / self.n_clusters)
        self.optimizer_ = torch.optim.AdamW(self.student_, lr=self.learning_rate)

    def _log_probabilities(self, layers, x):
        first, first_bias, second, second_bias, last = layers
        h = F.gelu(torch.addmm(first_bias, x, first))
        h = h.view(len(x), self.n_heads, self.hidden).transpose(0, 1)
        h = F.normalize(torch.baddbmm(second_bias, h, second), dim=-1)
        scores = torch.bmm(h, F.normalize(last, dim=1))  # (H, n, K): cosines
        return (scores / self.temperature).log_softmax(-1).transpose(0, 1)

    def _step(self, x, near):
        pairs = torch.cat([x, near])
        with torch.no_grad():
            log_t = self._log_probabilities(self.teacher_, pairs)
            self.prior_.lerp_(log_t.exp().mean(0), 0.1)
        q, q_near = self._log_probabilities(self.student_, pairs).chunk(2)
        loss = temi_loss(q, q_near, *log_t.chunk(2), self.prior_, self.beta).sum()
        self.optimizer_.zero_grad()
        loss.backward()
        self.optimizer_.step()
        keep = momentum(self.n_steps)
        with torch.no_grad():
            torch._foreach_lerp_(self.teacher_, self.student_, 1 - keep)

    def _end(self, x, near):
        rows = [self._log_probabilities(self.teacher_, b) for b in x.split(512)]
        pairs = [self._log_probabilities(self.teacher_, b) for b in near.split(512)]
        log_t, log_near = torch.cat(rows), torch.cat(pairs)
        prior = log_t.exp().mean(0)
        losses = temi_loss(log_t, log_near, log_t, log_near, prior, self.beta)
        del self.optimizer_, self.student_
        return losses, log_t.argmax(-1)


def generalisation_score(X, labels, classifier=None, n_splits=5, random_state=0):
    """Cross-validated accuracy of a linear classifier that learns found clusters.

    It ranks clusterings of the same rows without labels: clusters that are classes of
    the world can be learnt from some rows and found again in others. A single cluster
    is learnt at once, so clusterings of about equal numbers and sizes are compared.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Features.
    labels : array-like of shape (n,)
        Clusters of the rows.
    classifier : estimator, default=None
        None: logistic regression on standardised features.
    n_splits : int, default=5
    random_state : int, default=0
        Draws the splits.

    Returns
    -------
    score : float
        The mean accuracy on the rows held out.

    Raises
    ------
    ValueError
        If there is one cluster only.

    References
    ----------
    Gadetsky et al., *Let Go of Your Labels with Unsupervised Transfer*, 2024.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("The labels name one cluster only, and any classifier has it.")
    if classifier is None:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    splits = KFold(n_splits, shuffle=True, random_state=random_state)
    return float(cross_val_score(clone(classifier), X, labels, cv=splits).mean())


def check():
    """Assert each formula on values that were worked out by hand."""
    close = torch.testing.assert_close
    X = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.1, 1.0]])
    assert nearest(X, 1, block=3).squeeze(1).tolist() == [1, 0, 3, 2]
    # two rows, one head: agreement 1/2 and 1, mean of p (1/4, 3/4)
    p = torch.tensor([[[0.5, 0.5]], [[0.0, 1.0]]])
    near = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    close(scan_loss(p, near, 5.0), torch.tensor([0.5 * math.log(2) - 5 * entropy]))
    # q = (1/4, 3/4), all others (1/2, 1/2), beta 1, prior (1/4, 3/4)
    q, half = torch.tensor([[[0.25, 0.75]]]).log(), torch.full((1, 1, 2), 0.5).log()
    prior = torch.tensor([[0.25, 0.75]])
    one = math.log(0.125 / 0.25 + 0.375 / 0.75)
    other = math.log(0.25 / 0.25 + 0.25 / 0.75)
    expected = torch.tensor([-0.5 * (one + other) / 2])
    close(temi_loss(q, half, half, half, prior, 1.0), expected)
    # beta 1/2, all (1/2, 1/2): 2 * sqrt(1/4) / (1/2), and a weight of 1/2
    level = torch.full((1, 2), 0.5)
    close(
        temi_loss(half, half, half, half, level, 0.5),
        torch.tensor([-0.5 * math.log(2)]),
    )
    # the weight is the mean over the heads, so a sure head is heard in the other one
    sure = torch.tensor([[[1.0, 0.0]]]).clamp_min(1e-30).log()
    two = [torch.cat([half, other], 1) for other in (half, sure)]
    level = torch.full((2, 2), 0.5)
    alike, unlike = (temi_loss(x, x, x, x, level, 1.0) for x in two)
    close(alike, torch.zeros(2))
    close(unlike, torch.tensor([0.0, -0.75 * math.log(2)]))
    assert momentum(50) == 0 and momentum(1000) == 0.9 and momentum(10**6) == 0.996
    rng = np.random.default_rng(0)
    blobs = np.repeat(np.eye(3), 40, axis=0) * 10 + rng.normal(size=(120, 3))
    truth = np.repeat(np.arange(3), 40)
    assert generalisation_score(blobs, truth) > 0.99
    assert generalisation_score(blobs, rng.permutation(truth)) < 0.6
    for head in (SCANHead, TEMIHead):
        fits = [
            head(3, n_neighbors=5, n_heads=3, n_steps=200, random_state=0)
            .set_params(learning_rate=0.01)
            .fit_predict(blobs)
            for _ in range(2)
        ]
        assert (fits[0] == fits[1]).all()
        assert [len(set(part)) for part in fits[0].reshape(3, 40)] == [1, 1, 1]
        assert len(set(fits[0])) == 3
    print("The formulas hold.")


if __name__ == "__main__":
    check()
