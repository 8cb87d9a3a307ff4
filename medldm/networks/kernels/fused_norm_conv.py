"""Group normalisation, SiLU and convolution that keep only their input for the backward pass.

PyTorch's own functions keep the normalised, the activated and under autocast the rounded input of each
convolution besides: three to four maps where one is enough. The functions here compute them again from the
input. The gradients are the same; second derivatives are refused.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Gomez et al. 2017, "The Reversible
Residual Network", Section 3.2, for recomputing what is cheap.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medldm.networks.kernels import dispatch
from medldm.networks.kernels.convolution import convolve_with_onednn

_ROWS = 2**14
"""Voxels whose products exist at a time where only their sum is wanted."""


def normalise(x: Tensor, norm: nn.GroupNorm, *, silu: bool) -> Tensor:
    """Normalise (B, C, ...) and activate with SiLU if asked for; a training keeps `x` only."""
    if dispatch.runs_plainly():
        h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.silu(h) if silu else h
    if dispatch.needs_graph(x, norm.weight, norm.bias):
        return Normalisation.apply(x, norm.weight, norm.bias, norm, silu)
    h = _group_norm(x, norm.weight, norm.bias, norm)[0]
    return F.silu(h, inplace=True) if silu else h


def normalise_and_convolve(x: Tensor, norm: Any, layer: Any, *, silu: bool) -> Tensor:
    """Normalise (B, in, X, Y, Z), activate with SiLU if asked for and convolve; a training keeps `x` only.

    `norm` is a nn.GroupNorm over the channels of `x`, `layer` a nn.Conv2d or nn.Conv3d.
    """
    if not dispatch.may_fuse(norm, layer):
        h = norm(x)
        return layer(F.silu(h) if silu else h)
    tensors = norm.weight, norm.bias, layer.weight, layer.bias
    if not dispatch.needs_graph(x, *tensors):
        return layer(normalise(x, norm, silu=silu))
    return NormConvolution.apply(x, *tensors, norm, layer, silu)


class Normalisation(torch.autograd.Function):
    """Group normalisation, and SiLU if asked for; keeps the input and the statistics.

    The plain form also keeps the normalised input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, norm: nn.GroupNorm, silu: bool) -> Tensor:
        ctx.norm, ctx.silu = norm, silu
        h, mean, rstd = _group_norm(x, gamma, beta, norm)
        ctx.save_for_backward(x, gamma, beta, mean, rstd)
        return F.silu(h, inplace=True) if silu else h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, gamma, beta, mean, rstd = ctx.saved_tensors
        grad = gradients[0]
        if ctx.silu:
            grad = torch.ops.aten.silu_backward(grad, _group_norm(x, gamma, beta, ctx.norm)[0])
        needs = ctx.needs_input_grad[:3]
        of_norm = _group_norm_backward(grad, x, mean, rstd, gamma, ctx.norm, needs=needs, in_place=ctx.silu)
        return *of_norm, None, None


class NormConvolution(torch.autograd.Function):
    """Group normalisation, SiLU if asked for, and a convolution; keeps the input and the statistics.

    The plain form keeps the normalised, the activated and under autocast the rounded input besides.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, *rest: Any) -> Tensor:
        weight, bias, norm, layer, silu = rest
        ctx.norm, ctx.layer, ctx.silu = norm, layer, silu
        dtype = dispatch.compute_dtype(x)
        ctx.dtype = torch.float32 if dispatch.computes_in_float32(x, weight) else dtype
        with torch.autocast(x.device.type, enabled=False):
            h, mean, rstd = _group_norm(x, gamma, beta, norm)
            h = (F.silu(h, inplace=True) if silu else h).to(ctx.dtype)
            kernel = weight.to(ctx.dtype)
            if dispatch.use_onednn(h, kernel):
                h = dispatch.channels_last(h) if dispatch.is_fine_grid(h, kernel) else h
                y = convolve_with_onednn(h, kernel, layer)
            else:
                y = layer._conv_forward(h, kernel, None if bias is None else bias.to(ctx.dtype))
        ctx.save_for_backward(x, gamma, beta, weight, mean, rstd)
        return y.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, gamma, beta, weight, mean, rstd = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            normalised = _group_norm(x, gamma, beta, ctx.norm)[0]
            needs = (any(ctx.needs_input_grad[:3]), *ctx.needs_input_grad[3:5])
            grad, *of_layer = _through_convolution(ctx, gradients[0], normalised, weight, needs=needs)
            of_norm: Any = (None, None, None)
            if grad is not None:
                grad = grad.to(normalised.dtype)
                if ctx.silu:
                    torch.ops.aten.silu_backward.grad_input(grad, normalised, grad_input=grad)
                del normalised
                needs = ctx.needs_input_grad[:3]
                of_norm = _group_norm_backward(
                    grad, x, mean, rstd, gamma, ctx.norm, needs=needs, in_place=True
                )
        return *of_norm, *of_layer, None, None, None


def _group_norm(x: Tensor, gamma: Tensor, beta: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise; return the means and inverse deviations (B, groups) as well."""
    x = _packed(x)
    sizes = x.shape[0], x.shape[1], x.shape[2:].numel(), norm.num_groups
    with torch.autocast(x.device.type, enabled=False):
        return torch.native_group_norm(x, _beside(x, gamma), _beside(x, beta), *sizes, norm.eps)


def _group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    norm: nn.GroupNorm,
    *,
    needs: Any,
    in_place: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a group normalisation for its input, scale and shift; `in_place` may overwrite `grad`."""
    x = _packed(x)
    if not x.is_contiguous():
        return _group_norm_backward_last(
            dispatch.channels_last(grad), x, mean, rstd, gamma, in_place=in_place
        )
    sizes = x.shape[0], x.shape[1], x.shape[2:].numel(), norm.num_groups
    grad_x, *of_parameters = torch.ops.aten.native_group_norm_backward(
        grad.contiguous(), x, mean, rstd, _beside(x, gamma), *sizes, list(needs)
    )
    return grad_x, *(None if g is None else g.to(gamma.dtype) for g in of_parameters)


def _group_norm_backward_last(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, *, in_place: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with channels last, where PyTorch's own takes 5 to 70 times as long as with channels first.

    With y = gamma r (x - m) + beta for each group, r = 1 / sqrt(variance + eps), n values in a group and sums
    over those:
    dx = gamma r dy + b x + c,  b = r^3 (m sum(gamma dy) - sum(gamma dy x)) / n,
    c = -b m - r sum(gamma dy) / n.
    """
    batch, channels = x.shape[:2]
    values, slopes = (t.movedim(1, -1).reshape(batch, -1, channels) for t in (x, grad))
    pieces = zip(slopes.split(_ROWS, dim=1), values.split(_ROWS, dim=1), strict=True)
    products = [(slope * value).sum(1, dtype=torch.float32) for slope, value in pieces]
    sums = slopes.sum(1, dtype=torch.float32), torch.stack(products).sum(0)
    m, r = mean.float()[..., None], rstd.float()[..., None]
    scale = gamma.float().view(1, mean.shape[1], -1)
    of_dy, of_dy_x = (total.view(batch, mean.shape[1], -1) for total in sums)
    n = values.shape[1] * scale.shape[2]
    sum_dy, sum_dy_x = ((scale * total).sum(-1, keepdim=True) for total in (of_dy, of_dy_x))
    b = r**3 * (m * sum_dy - sum_dy_x) / n
    c = -b * m - r * sum_dy / n
    a, b, c = (f.expand_as(of_dy).reshape(batch, 1, channels).to(x.dtype) for f in (scale * r, b, c))
    scaled = slopes.mul_(a) if in_place else slopes * a
    grad_x = scaled.addcmul_(values, b).add_(c).view_as(x.movedim(1, -1)).movedim(-1, 1)
    grad_gamma = ((of_dy_x - m * of_dy) * r).sum(0).flatten()
    return grad_x, grad_gamma.to(gamma.dtype), of_dy.sum(0).flatten().to(gamma.dtype)


def _through_convolution(
    ctx: Any, grad: Tensor, normalised: Tensor, weight: Tensor, *, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of activation's result, weight and bias.

    Of large maps those of the parameters come first. What was convolved is then freed before the gradient of
    the input is made, which asks for no more than a shape.
    """
    h = (F.silu(normalised) if ctx.silu else normalised).to(ctx.dtype)
    if not (all(needs[:2]) and dispatch.splits_backward(h, normalised)):
        return _convolution_backward(grad, h, weight, ctx.layer, needs=needs)
    _, *of_layer = _convolution_backward(grad, h, weight, ctx.layer, needs=(False, *needs[1:]))
    del h
    of_input, *_ = _convolution_backward(grad, normalised, weight, ctx.layer, needs=(True, False, False))
    return of_input, *of_layer


def _packed(x: Tensor) -> Tensor:
    """Return `x` without gaps; channels stay last where PyTorch normalises them so at full speed."""
    return x if dispatch.is_channels_last(x) and x.shape[2:].numel() >= 1024 else x.contiguous()


def _beside(x: Tensor, value: Tensor) -> Tensor:
    """Return a scale or shift in a dtype that a normalisation takes beside `x`; mixed ones only on a CPU."""
    return value if x.device.type == "cpu" else value.to(x.dtype)


def _convolution_backward(
    grad: Tensor, h: Tensor, weight: Tensor, layer: nn.Conv3d, *, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of a convolution for its input, weight and bias; those of the parameters in their dtype."""
    grad, kernel, batch, n_rows = grad.to(h.dtype), weight.to(h.dtype), len(h), h.shape[2]
    is_halved = False
    if dispatch.use_onednn(h, kernel):
        if dispatch.is_fine_grid(h, kernel):
            h, grad = dispatch.channels_last(h), dispatch.channels_last(grad)
        if dispatch.would_unfold(h):
            is_halved = dispatch.can_halve(h, layer)
            h, grad = (
                _halve(h, grad) if is_halved else (torch.cat([t, torch.zeros_like(t)]) for t in (h, grad))
            )
    geometry = [list(layer.stride), list(layer.padding), list(layer.dilation), False, [0] * (h.ndim - 2)]
    grad_h, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, h, kernel, [len(weight)], *geometry, layer.groups, list(needs)
    )
    of_parameters = [None if g is None else g.to(weight.dtype) for g in (grad_weight, grad_bias)]
    if grad_h is not None:
        grad_h = _join(grad_h, n_rows) if is_halved else grad_h[:batch]
    return grad_h, *of_parameters


def _halve(h: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Make two samples of the halves of one along its first axis, each with a row of the other beside it.

    Args:
        h: (1, C, X, Y, Z), input of a 3^3 convolution.
        grad: (1, C', X, Y, Z), gradient of its output; 0 in the rows that a half has from the other.

    Returns:
        (2, C, n + 2, Y, Z) and (2, C', n + 2, Y, Z), n = X / 2 rounded up.
    """
    n_rows = h.shape[2]
    n = (n_rows + 1) // 2
    tiles, gradients = (t.new_zeros(2, t.shape[1], n + 2, *t.shape[3:]) for t in (h, grad))
    if dispatch.is_channels_last(h):
        tiles, gradients = dispatch.channels_last(tiles), dispatch.channels_last(gradients)
    tiles[0, :, 1:] = h[0, :, : n + 1]
    tiles[1, :, : n_rows - n + 1] = h[0, :, n - 1 :]
    gradients[0, :, 1 : n + 1] = grad[0, :, :n]
    gradients[1, :, 1 : n_rows - n + 1] = grad[0, :, n:]
    return tiles, gradients


def _join(halves: Tensor, n_rows: int) -> Tensor:
    """Add the gradients (2, C, n + 2, Y, Z) of the halves up to that of (1, C, n_rows, Y, Z)."""
    n = halves.shape[2] - 2
    whole = torch.cat([halves[:1, :, 1 : n + 1], halves[1:, :, 1 : n_rows - n + 1]], dim=2)
    whole[0, :, n - 1] += halves[1, :, 0]
    whole[0, :, n] += halves[0, :, n + 1]
    return whole
