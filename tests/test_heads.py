"""The head that projector and predictor share."""

import torch
from torch import nn

from skdeepcluster.heads import projection_head


def test_projection_head():
    torch.manual_seed(0)
    head = projection_head(5, 7, 3)
    assert head(torch.randn(4, 5)).shape == (4, 3)
    assert [type(layer) for layer in head] == [
        nn.Linear,
        nn.BatchNorm1d,
        nn.ReLU,
        nn.Linear,
    ]
