"""Turn the voxels on both sides of block borders, so that a block transform after it becomes a lapped one.

Along an axis that is cut every f voxels, a window of M = min(f, 4) voxels lies across each border, w = (l_1,
l_2 | r_2, r_1). With s = (l_i + r_i) / sqrt(2) and d = (l_i - r_i) / sqrt(2), i = 1, 2, and a rotation V of
the plane by an angle a,

    w' = S^T s + D^T V d,        T w = (S^T S + D^T V D) w

s is kept, so constants stay as they are. Where f = 2 the window has one voxel on each side, and is itself
turned by V: with a transform of two voxels after it, this is the lattice of Daubechies' filters of four. All
windows of an axis are disjoint and those of different axes commute, so T is orthogonal: its transpose, which
is the same with the angle -a, undoes it. Voxels at a border of the volume have no partner: they stay as they
are. So that they do not differ from others where f = 2, the mean of the cohort's outermost voxels, most often
that of background, is taken from the volume before and added again after.

Blocks of the turned volume have basis functions of up to f + M voxels of the volume, which fade towards their
ends: what is inconsistent between neighbouring blocks shows no edge.

Source: Malvar and Staelin 1989, "The LOT: Transform Coding Without Blocking Effects"; Tran, Liang and Tu
2003, "Lapped Transform via Time-Domain Pre- and Post-Filtering", Section III; Vaidyanathan 1993, "Multirate
Systems and Filter Banks", Section 6.4 for f = 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WINDOW = 4
"""Most voxels of a window across a border."""

_STEP = 0.01
"""Between angles that are tried, in radians; near the best, 0.1 costs less than 0.1 dB."""


def turn_borders(
    x: Tensor,
    factors: Sequence[int],
    *,
    angles: Tensor,
    level: Tensor | None = None,
    is_back: bool = False,
) -> Tensor:
    """Turn the windows across all block borders, in the precision of the volume.

    Args:
        x: (B, C, X, Y[, Z]), sizes are multiples of the factors.
        factors: voxels of a block on each axis, powers of two; 1 for an axis without borders.
        angles: (number of axes,), in radians.
        level: (C,) that is taken from the volume before it is turned; None for 0.
        is_back: whether to undo it.

    Returns:
        A new tensor of the same shape.
    """
    level = None if level is None else level.to(x).view(-1, *[1] * len(factors))
    turned, angles = x.clone() if is_back or level is None else x - level, angles.to(x)
    cosines, sines = angles.cos(), -angles.sin() if is_back else angles.sin()
    for place, factor in enumerate(factors):
        if factor > 1 and x.shape[2 + place] > factor:
            _turn_axis(turned, factor, axis=2 + place, cosine=cosines[place], sine=sines[place])
    return turned.add_(level) if is_back and level is not None else turned


def _turn_axis(x: Tensor, factor: int, *, axis: int, cosine: Tensor, sine: Tensor) -> None:
    """Turn the windows along one axis in place."""
    windows = x.narrow(axis, factor // 2, x.shape[axis] - factor).unflatten(axis, (-1, factor))
    middle = factor // 2
    left, right = windows.select(axis + 1, middle - 1), windows.select(axis + 1, middle)
    if factor == 2:
        new = cosine * left + sine * right
        right.mul_(cosine).sub_(sine * left)
        left.copy_(new)
        return
    outer_left, outer_right = windows.select(axis + 1, middle - 2), windows.select(axis + 1, middle + 1)
    inner, outer = (left - right) / 2, (outer_left - outer_right) / 2
    change = (cosine - 1) * inner - sine * outer
    left.add_(change)
    right.sub_(change)
    change = (cosine - 1) * outer + sine * inner
    outer_left.add_(change)
    outer_right.sub_(change)


class BorderMoments:
    """Gather how voxels along each axis vary together across block borders, and choose the angles by it.

    Counted are stretches of a block and the halves of the windows on both its sides, f + M voxels along one
    axis, wherever both neighbours exist; and the outermost voxels of the axes where f = 2.

    Args:
        channels: of the volumes.
        factors: voxels of a block on each axis.

    Examples:
        >>> moments = BorderMoments(1, (4, 4, 1))
        >>> moments.add(torch.linspace(-1, 1, 16).expand(1, 1, 16, 16, 16).cumsum(2).cumsum(3))
        >>> moments.fit(2)[2]
        tensor(0., dtype=torch.float64)
    """

    def __init__(self, channels: int, factors: Sequence[int]) -> None:
        self.channels, self.factors = channels, tuple(factors)
        lengths = [factor + min(factor, WINDOW) for factor in self.factors]
        self.counts = torch.zeros(len(lengths), dtype=torch.float64)
        self.totals = [torch.zeros(channels, n, dtype=torch.float64) for n in lengths]
        self.products = [torch.zeros(channels, n, n, dtype=torch.float64) for n in lengths]
        self.outer_count = torch.zeros((), dtype=torch.float64)
        self.outer_total = torch.zeros(channels, dtype=torch.float64)

    def add(self, volumes: Tensor) -> None:
        """Count volumes (B, C, X, Y[, Z]), whose sizes are multiples of the factors."""
        for place, factor in enumerate(self.factors):
            length, n = factor + min(factor, WINDOW), volumes.shape[2 + place]
            if factor == 2:
                outer = volumes.movedim((1, 2 + place), (0, 1))[:, [0, -1]].flatten(1).double().cpu()
                self.outer_count += outer.shape[1]
                self.outer_total += outer.sum(dim=1)
            if factor == 1 or n < 3 * factor:
                continue
            start = factor - min(factor, WINDOW) // 2
            inside = volumes.narrow(2 + place, start, n - 2 * start)
            stretches = inside.unfold(2 + place, length, factor).movedim((1, -1), (0, 1)).flatten(2)
            stretches = stretches.double().cpu()
            self.counts[place] += stretches.shape[2]
            self.totals[place] += stretches.sum(dim=2)
            self.products[place] += stretches @ stretches.mT

    def tensors(self) -> list[Tensor]:
        """Return what is gathered: sums, so that the moments of parts of a cohort add up to those of all."""
        return [self.counts, *self.totals, *self.products, self.outer_count, self.outer_total]

    def fit_level(self) -> Tensor:
        """Return the mean of the outermost voxels, (C,) float64; 0 where it does not matter."""
        return self.outer_total / self.outer_count.clamp(min=1)

    def fit(self, n_components: int) -> Tensor:
        """Return the angle of each axis, (number of axes,) float64, that keeps most variance.

        The covariance of a turned block is taken as the product of those along the axes, whose eigenvalues
        are the products of theirs; kept is the sum of the largest `n_components`, shared by the channels. The
        first half of these counts half as much besides: an angle may move variance among kept components
        alone. Angles are changed in turn, axis by axis, until none gains. An angle is 0 on an axis without
        borders, and where nothing was counted.
        """
        n_kept = math.ceil(n_components / self.channels)
        angles = [_angles_of(factor) for factor in self.factors]
        spectra = [self._spectra(place, tried) for place, tried in enumerate(angles)]
        chosen = [int(tried.abs().argmin()) for tried in angles]
        before: list[int] = []
        while before != chosen:
            before = list(chosen)
            for place, tried in enumerate(spectra):
                others = [spectra[i][chosen[i]] for i in range(len(spectra)) if i != place]
                kept = _kept_of_products(tried, others, n_kept=n_kept)
                kept += 0.5 * _kept_of_products(tried, others, n_kept=math.ceil(n_kept / 2))
                if float(kept.max() - kept[chosen[place]]) > 1e-12:
                    chosen[place] = int(kept.argmax())
        found = [tried[choice] for tried, choice in zip(angles, chosen, strict=True)]
        has_borders = torch.tensor([factor > 1 for factor in self.factors]) & (self.counts > 0)
        return torch.where(has_borders, torch.stack(found), 0.0)

    def _spectra(self, place: int, angles: Tensor) -> Tensor:
        """Return the eigenvalues (A, f), of sum 1, of the covariance of blocks along an axis for A angles."""
        factor = self.factors[place]
        if factor == 1 or self.counts[place] == 0:
            return torch.full((len(angles), factor), 1 / factor, dtype=torch.float64)
        mean = self.totals[place] / self.counts[place]
        covariance = (self.products[place] / self.counts[place] - mean[:, :, None] * mean[:, None]).sum(0)
        rows = torch.stack([_rows_of_block(factor, angle) for angle in angles])
        spectra = torch.linalg.eigvalsh(rows @ covariance @ rows.mT).clamp(min=0)
        return spectra / spectra.sum(dim=1, keepdim=True).clamp(min=1e-30)


def _angles_of(factor: int) -> Tensor:
    """Return the angles that are tried; with f = 2 only one of the two signs, which mirror the axis."""
    first, last = (-math.pi / 2, 0.0) if factor == 2 else (-math.pi / 4, math.pi / 4)
    return torch.arange(math.ceil(first / _STEP), math.floor(last / _STEP) + 1, dtype=torch.float64) * _STEP


def _rows_of_block(factor: int, angle: Tensor) -> Tensor:
    """Return what makes a turned block of a stretch, (f, f + M)."""
    units = torch.eye(3 * factor, dtype=torch.float64)[None]
    turned = turn_borders(units, (factor,), angles=angle[None])[0]
    half = min(factor, WINDOW) // 2
    return turned[factor - half : 2 * factor + half, factor : 2 * factor].mT


def _kept_of_products(tried: Tensor, others: Sequence[Tensor], *, n_kept: int) -> Tensor:
    """Return the sum of the largest products (A,) of the values (A, f) of an axis and those of other axes."""
    products = tried
    for values in others:
        products = (products[..., None] * values).flatten(1)
    return products.topk(min(n_kept, products.shape[1]), dim=1).values.sum(dim=1)
