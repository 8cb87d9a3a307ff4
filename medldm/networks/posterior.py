"""The Gaussian posterior of a VAE."""

from __future__ import annotations

import torch
from torch import Tensor

from medldm.runtime.batch_shard import BatchShard, whole_batch

MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0


class DiagonalGaussian:
    """A Gaussian with independent components, N(mean, exp(logvar)), in at least float32.

    Args:
        mean: (B, C, x, y, z).
        logvar: of the same shape; clamped to [-30, 20] so that neither the deviation nor its inverse
            overflows.

    Examples:
        >>> posterior = DiagonalGaussian(torch.zeros(2, 4, 8, 8, 8), torch.zeros(2, 4, 8, 8, 8))
        >>> posterior.kl()
        tensor([0., 0.])

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", Appendix B.
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        dtype = torch.promote_types(mean.dtype, torch.float32)
        self.mean = mean.to(dtype)
        self.logvar = logvar.to(dtype).clamp(MIN_LOGVAR, MAX_LOGVAR)
        self.std = torch.exp(self.logvar / 2)

    def sample(self, generator: torch.Generator | None = None, *, shard: BatchShard | None = None) -> Tensor:
        """Draw mean + std * noise; the noise is drawn on the generator's device.

        Args:
            generator: of the noise.
            shard: the rows of a batch that the posterior is of; None for a batch of its own.
        """
        shard = shard or whole_batch(len(self.mean))
        return self.mean + self.std * shard.draw_normal(self.mean, generator=generator)

    def kl(self) -> Tensor:
        """Compute the divergence from N(0, 1), (B,) in nats, summed over channels and voxels."""
        divergence = 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)
        return divergence.flatten(1).sum(1)
