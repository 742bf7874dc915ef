"""Batch norm whose batch is spread over several processes."""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class WholeBatchNorms(TorchFunctionMode):
    """Have batch norms in training count the rows of all processes.

    ``nn.SyncBatchNorm`` does so on GPUs only, and would have to take the place of
    layers, some of which are the user's. Running statistics are those of all rows, too.

    Parameters
    ----------
    group : Group
        The processes.
    """

    def __init__(self, group):
        super().__init__()
        self.group = group

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.batch_norm and kwargs.get("training"):
            return _batch_norm(self.group, *args, **kwargs)
        return function(*args, **kwargs)


def _batch_norm(group, x, mean, var, weight, bias, training, momentum, eps):
    return _BatchNorm.apply(x, weight, bias, (mean, var, momentum), eps, group)


class _BatchNorm(Function):
    """Batch norm by mean and variance of the rows of all processes."""

    @staticmethod
    def forward(ctx, x, weight, bias, running, eps, group):
        places, channels = [0, *range(2, x.ndim)], x.shape[1]
        # as precise as torch.var_mean, which takes four times as long on the CPU
        own = _precise(x).mean(places, dtype=torch.float64)
        left = _precise(x) - own.to(_precise(x[:0])).view(_wide(x))
        spread = left.square_().mean(places, dtype=torch.float64)
        count = own.new_full((1,), x.numel() // channels)
        here = torch.cat([count, spread, own]).unsqueeze(0)
        n, var, mean = group.gather(here, group.size).split([1, *[channels] * 2], 1)
        share = n / n.sum()
        middle = (share * mean).sum(0)
        var = (share * (var + (mean - middle).square())).sum(0)
        n = n.sum()
        running_mean, running_var, momentum = running
        if running_mean is not None:
            running_mean.lerp_(middle.to(running_mean), momentum)
            unbiased = var * (n / (n - 1).clamp_min(1))
            running_var.lerp_(unbiased.to(running_var), momentum)
        mean, var = (x_.to(_precise(x[:0])) for x_ in (middle, var))
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), n)
        ctx.group = group
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, rstd, n = ctx.saved_tensors
        places, wide = [0, *range(2, x.ndim)], _wide(x)
        grad = _precise(grad)
        unit = (_precise(x) - mean.view(wide)) * rstd.view(wide)
        sums = torch.stack([grad.sum(places), (grad * unit).sum(places)])
        of_bias, of_weight = sums if weight is not None else (None, None)
        whole = (ctx.group.sum(sums.double()) / n).to(sums)
        scale = rstd if weight is None else rstd * weight
        inner = grad - whole[0].view(wide)
        inner.addcmul_(unit, whole[1].view(wide), value=-1).mul_(scale.view(wide))
        return inner.to(x.dtype), of_weight, of_bias, None, None, None


def _wide(x):
    """Shape in which a value a channel goes with x."""
    return 1, -1, *[1] * (x.ndim - 2)


def _precise(x):
    return x if x.dtype == torch.float64 else x.float()
