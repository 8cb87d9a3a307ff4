"""The codebook of a VQ-VAE: nearest code, straight-through gradient, learning by averages or by gradient.

Source: van den Oord et al. 2017, "Neural Discrete Representation Learning", Eqs. 1 to 3 and Appendix A.1;
restart of unused codes as in Dhariwal et al. 2020, "Jukebox", Section 3.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.runtime.batch_shard import BatchShard, whole_batch

MAX_DISTANCES = 2**22


class Quantised(NamedTuple):
    """The result of a quantisation.

    Attributes:
        latents: (B, C, x, y, z) nearest codes; their gradient is passed on to the input unchanged.
        indices: (B, x, y, z) int64 indices of the codes.
        loss: scalar commitment loss, with the codebook loss if the codebook learns by gradient.
        perplexity: scalar, how many codes are in use, exp of the entropy of their frequencies.
    """

    latents: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor


class _StraightThrough(torch.autograd.Function):
    """Value of the codes, gradient of the latents."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, codes: Tensor) -> Tensor:
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0], None


class VectorQuantiser(nn.Module):
    """Hold a codebook (n_codes, channels) and replace vectors by their nearest code, in float32.

    Calling it never changes it; `initialise` and `update` do, and the VQVAE calls these while it is trained.

    Args:
        n_codes: size of the codebook.
        channels: width of a code.
        commitment_weight: beta of the commitment loss beta |z - e|^2.
        learning: "ema" moves codes to the running mean of their vectors; "gradient" adds |e - z|^2 to the
            loss.
        decay: of the running means.
        restart_after: training steps without use after which a code is replaced; None for never.
        is_initialised: False to wait for `initialise`, True to start from normally distributed codes.

    Attributes:
        is_frozen: whether `update` does nothing.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    steps_unused: Tensor
    is_initialised: Tensor

    def __init__(
        self,
        n_codes: int,
        channels: int,
        *,
        commitment_weight: float,
        learning: str,
        decay: float,
        restart_after: int | None,
        is_initialised: bool,
    ) -> None:
        super().__init__()
        self.is_frozen = False
        self.commitment_weight = commitment_weight
        self.learning = learning
        self.decay = decay
        self.restart_after = restart_after
        codes = torch.randn(n_codes, channels)
        if learning == "gradient":
            self.codebook = nn.Parameter(codes)
        else:
            self.register_buffer("codebook", codes)
            self.register_buffer("counts", torch.ones(n_codes))
            self.register_buffer("sums", codes.clone())
        self.register_buffer("steps_unused", torch.zeros(n_codes, dtype=torch.int64))
        self.register_buffer("is_initialised", torch.tensor(is_initialised))

    def forward(self, latents: Tensor, *, shard: BatchShard | None = None) -> Quantised:
        """Replace each vector of (B, C, x, y, z) by its nearest code.

        Args:
            latents: float.
            shard: the rows of a batch that they are, if the perplexity of the whole batch is wanted.
        """
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.float()
            vectors = to_vectors(z)
            indices = nearest_codes(vectors.detach(), self.codebook.detach().float())
            codes = from_vectors(F.embedding(indices, self.codebook.float()), like=z)
            loss = self.commitment_weight * F.mse_loss(z, codes.detach())
            if self.learning == "gradient":
                loss = loss + F.mse_loss(codes, z.detach())
            quantised = _StraightThrough.apply(z, codes.detach()).to(latents.dtype)
            counts = self._count(indices)
            perplexity = compute_perplexity(counts if shard is None else shard.sum(counts))
        return Quantised(quantised, indices.view(len(z), *z.shape[2:]), loss, perplexity)

    def embed(self, indices: Tensor) -> Tensor:
        """Look up indices (B, x, y, z) and return codes (B, C, x, y, z)."""
        return F.embedding(indices, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def initialise(
        self, latents: Tensor, *, generator: torch.Generator | None = None, shard: BatchShard | None = None
    ) -> None:
        """Take the codes from the vectors of a first batch (B, C, x, y, z), if that was not done before."""
        if bool(self.is_initialised):
            return
        shard = shard or whole_batch(len(latents))
        picks = self._pick(to_vectors(latents.float()), shard, generator)
        self._replace(torch.ones(len(self.codebook), dtype=torch.bool, device=picks.device), picks)
        self.is_initialised.fill_(True)

    @torch.no_grad()
    def update(
        self,
        latents: Tensor,
        indices: Tensor,
        *,
        generator: torch.Generator | None = None,
        shard: BatchShard | None = None,
    ) -> None:
        """Learn from the vectors of a batch and the codes they took, then replace codes long unused.

        N_i = decay N_i + (1 - decay) n_i,  m_i = decay m_i + (1 - decay) sum_j z_ij,  e_i = m_i / N_i; codes
        that no vector took stay as they are, to the bit. A frozen codebook stays as it is.
        """
        if self.is_frozen:
            return
        shard = shard or whole_batch(len(latents))
        vectors = to_vectors(latents.float())
        counts = shard.sum(self._count(indices.flatten()))
        sums = torch.zeros(self.codebook.shape, device=vectors.device)
        sums.index_add_(0, indices.flatten(), vectors)
        sums = shard.sum(sums)
        is_used = counts > 0
        if self.learning == "ema":
            self._average(counts, sums, is_used)
        self.steps_unused.add_(1).masked_fill_(is_used, 0)
        if self.restart_after is not None:
            is_dead = self.steps_unused >= self.restart_after
            if bool(is_dead.any()):
                self._replace(is_dead, self._pick(vectors, shard, generator))

    def _average(self, counts: Tensor, sums: Tensor, is_used: Tensor) -> None:
        """One step of the moving averages; N and m of an unused code shrink alike, so it need not move."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.codebook.copy_(torch.where(is_used[:, None], self.sums / self.counts[:, None], self.codebook))

    def _count(self, indices: Tensor) -> Tensor:
        """How many vectors took each code, (n_codes,) float32."""
        counts = torch.zeros(len(self.codebook), device=indices.device)
        return counts.index_add_(0, indices, torch.ones_like(indices, dtype=counts.dtype))

    def _pick(self, vectors: Tensor, shard: BatchShard, generator: torch.Generator | None) -> Tensor:
        """Draw (n_codes, C) vectors of the whole batch, different while there are any, equal everywhere."""
        device = vectors.device if generator is None else generator.device
        number, per_row = len(self.codebook), len(vectors) // (shard.stop - shard.start)
        total = shard.total * per_row
        orders = [
            torch.randperm(total, generator=generator, device=device) for _ in range(-(-number // total))
        ]
        chosen = shard.from_first(torch.cat(orders)[:number].to(vectors.device)) - shard.start * per_row
        is_own = (chosen >= 0) & (chosen < len(vectors))
        picks = vectors[chosen.clamp(0, len(vectors) - 1)]
        return shard.sum(torch.where(is_own[:, None], picks, 0.0))

    def _replace(self, which: Tensor, vectors: Tensor) -> None:
        """Set the codes where `which` (n_codes,) is True to those rows of `vectors` (n_codes, C)."""
        self.codebook.copy_(torch.where(which[:, None], vectors, self.codebook))
        self.steps_unused.masked_fill_(which, 0)
        if self.learning == "ema":
            self.sums.copy_(torch.where(which[:, None], vectors, self.sums))
            self.counts.masked_fill_(which, 1.0)


def nearest_codes(vectors: Tensor, codes: Tensor) -> Tensor:
    """Find the nearest code of each vector by Euclidean distance.

    |z - e|^2 = |z|^2 - 2 z.e + |e|^2, where |z|^2 changes no order; one matrix product for each chunk of
    vectors, so that never more than about 4 million distances exist.

    Args:
        vectors: (N, C).
        codes: (K, C).

    Returns:
        (N,) int64.
    """
    norms, transposed = codes.square().sum(1), codes.t()
    chunk = max(1, MAX_DISTANCES // len(codes))
    return torch.cat(
        [torch.addmm(norms, part, transposed, alpha=-2).argmin(1) for part in vectors.split(chunk)]
    )


def compute_perplexity(counts: Tensor) -> Tensor:
    """Compute exp(-sum p log p) of the frequencies of counts (K,); between 1 and K."""
    return torch.special.entr(counts / counts.sum()).sum().exp()


def to_vectors(x: Tensor) -> Tensor:
    """Turn (B, C, x, y, z) into vectors (B x y z, C)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def from_vectors(vectors: Tensor, *, like: Tensor) -> Tensor:
    """Turn vectors (B x y z, C) into the shape of `like` (B, C, x, y, z); the inverse of `to_vectors`."""
    return vectors.view(len(like), *like.shape[2:], -1).movedim(-1, 1)
