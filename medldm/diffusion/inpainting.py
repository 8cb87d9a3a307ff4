"""Sampling from an original: keep a region of its latents exactly, or begin from it in part.

A kept region needs no solver of its own. Where latents are to be kept, x_0 is known, and by

    x_t = alpha_t x_0 + sigma_t eps                                                                        (1)

so is eps. Telling a solver these two in the place of the network's estimates keeps the region on the path to
the original, and every solver ends exactly at it: DDIM moves it along (1) with one eps, DDPM draws it from
q(x_s | x_t, x_0) with the x_0 that is true.

    Source: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations",
    Appendix I.2; Lugmayr et al. 2022, "RePaint", Eq. 8.

The free part sees the kept part only with its noise, so that its law is near the conditional one, not equal
to it. Going back up to more noise and down again (`InpaintingMask.resamplings`) brings it nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.diffusion.paths import NoisePath
from medldm.diffusion.solvers import Callback, Denoise, Pairs, Solver, SolverStep, invert_ddim
from medldm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InpaintingMask:
    """Hold the latents that sampling is to leave as they are.

    Args:
        original: (B, C, ...) standardised latents.
        is_kept: bool, broadcasts to `original`, e.g. (B, 1, x, y, z); True where they are kept.
        resamplings: how often each stretch of `jump` steps is made; between two, fresh noise leads back up.
            1 makes each once.
        jump: steps in a stretch. A multistep solver begins anew in each, if there are more than one.
        x_0_at: time to the x_0 (B, C, ...) that the solver is told of the kept part, e.g. of an `Inversion`,
            whose way back it then takes (Couairon et al. 2023, "DiffEdit", Section 3.2); at times that are
            not in it, the original.

    Raises:
        ValueError: if the mask does not fit or a number is below 1.

    Source: Lugmayr et al. 2022, "RePaint", Section 4.2 (r = resamplings, j = jump).
    """

    original: Tensor
    is_kept: Tensor
    resamplings: int = 1
    jump: int = 1
    x_0_at: Mapping[float, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_kept.dtype != torch.bool:
            raise ValueError(f"is_kept has the type {self.is_kept.dtype}: a mask of torch.bool is needed")
        shape, mask = tuple(self.original.shape), tuple(self.is_kept.shape)
        if len(mask) != len(shape) or any(m not in (1, n) for m, n in zip(mask, shape, strict=True)):
            raise ValueError(
                f"is_kept has the shape {mask}, which does not broadcast to the latents' {shape}"
            )
        for name in ("resamplings", "jump"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is needed")

    def put_noised(self, x: Tensor, path: NoisePath, t: float) -> Tensor:
        """Replace the kept part of the noise x (B, C, ...) by the original with this noise, Eq. (1) at t."""
        self._check(x)
        return torch.where(self.is_kept, path_state(self.original, x, path, t), x)

    def keep_in(self, denoise: Denoise, path: NoisePath) -> Denoise:
        """Wrap a solver's `denoise`: x_0 and eps of the kept part are those of the original."""

        def denoise_rest(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            self._check(x)
            x_0, eps = denoise(x, t)
            alpha, sigma = path.alpha_sigma(t)
            known = self.x_0_at.get(t, self.original)
            known_eps = (x - alpha * known) / sigma
            return torch.where(self.is_kept, known, x_0), torch.where(self.is_kept, known_eps, eps)

        return denoise_rest

    def _check(self, x: Tensor) -> None:
        if x.shape != self.original.shape:
            raise ValueError(
                f"the region is kept in latents {tuple(self.original.shape)}, but {tuple(x.shape)} is drawn"
            )


@dataclass(frozen=True, kw_only=True)
class PartialStart:
    """Begin from noised latents in the place of pure noise.

    Args:
        latents: (B, C, ...) standardised latents to begin from.
        strength: time to begin at as a share of the final time, in (0, 1]: 1 keeps next to nothing of the
            latents, near 0 nearly all.
        noise: (B, C, ...) standard normal noise to put on them, e.g. of an `Inversion`; None draws it.

    Raises:
        ValueError: if the strength is outside its range or the noise of another shape.

    Source: Meng et al. 2022, "SDEdit", Section 3.
    """

    latents: Tensor
    strength: float
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        _check_strength(self.strength)
        if self.noise is not None and self.noise.shape != self.latents.shape:
            raise ValueError(
                f"the noise has the shape {tuple(self.noise.shape)}, the latents {tuple(self.latents.shape)}"
            )

    def begin(self, drawn: Tensor, path: NoisePath, pairs: Pairs) -> tuple[Tensor, Pairs]:
        """Return the state at the first step, and the steps to make, from those of a whole run."""
        if drawn.shape != self.latents.shape:
            raise ValueError(
                f"the start has the shape {tuple(self.latents.shape)}, but {tuple(drawn.shape)} is sampled"
            )
        pairs = last_pairs(path, pairs, strength=self.strength)
        noise = drawn if self.noise is None else self.noise
        return path_state(self.latents, noise, path, pairs[0][0]), pairs


def path_state(x_0: Tensor, eps: Tensor, path: NoisePath, t: float) -> Tensor:
    """Return x_t of Eq. (1)."""
    alpha, sigma = path.alpha_sigma(t)
    return alpha * x_0 + sigma * eps


def last_pairs(path: NoisePath, pairs: Pairs, *, strength: float) -> Pairs:
    """Return the steps from times up to `strength` times the final time; the last step at least."""
    _check_strength(strength)
    latest = strength * path.final_time * (1 + 1e-9)
    return [pair for pair in pairs if pair[0] <= latest] or list(pairs[-1:])


class Inversion(NamedTuple):
    """What leads a deterministic solver to given latents.

    Args:
        noise: (B, C, ...) to put on the latents at the first time of the steps, for `PartialStart`.
        x_0_at: time to the estimate of x_0 on the way, for `InpaintingMask`; at the last time the latents.
    """

    noise: Tensor
    x_0_at: dict[float, Tensor]


def invert_noise(denoise: Denoise, x_0: Tensor, path: NoisePath, pairs: Pairs) -> Inversion:
    """Find the noise that, put on x_0 at the first time of the pairs, DDIM turns into x_0 again.

    The error is of first order in the steps; see `solvers.invert_ddim`.
    """
    x_0_at: dict[float, Tensor] = {}

    def note(step: SolverStep) -> None:
        x_0_at[step.s] = step.x_0

    alpha, sigma = path.alpha_sigma(pairs[0][0])
    state = invert_ddim(denoise, x_0, path, pairs, callback=note)
    return Inversion((state - alpha * x_0) / sigma, x_0_at)


def sample_from(
    solver: Solver,
    denoise: Denoise,
    path: NoisePath,
    pairs: Pairs,
    *,
    noise: Callable[[], Tensor],
    eta: float = 0.0,
    callback: Callback | None = None,
    inpainting: InpaintingMask | None = None,
    start: PartialStart | None = None,
) -> Tensor:
    """Run a solver from noise, or from a partly noised start, and keep a region if one is given.

    Args:
        solver: one of `SOLVERS`.
        denoise: see `Solver`.
        path: noise path.
        pairs: steps of a whole run, from the final time.
        noise: returns fresh standard normal noise; its first is what the run begins with.
        eta: see `Solver`.
        callback: called after each step, in each of its resamplings.
        inpainting: region to keep.
        start: where to begin; None begins with noise alone.

    Returns:
        (B, ...) state at the last time.

    Raises:
        ValueError: if shapes do not fit.
    """
    x = noise()
    if start is not None:
        x, pairs = start.begin(x, path, pairs)
    if inpainting is None:
        return solver(denoise, x, path, pairs, noise=noise, eta=eta, callback=callback)
    if start is None:
        x = inpainting.put_noised(x, path, pairs[0][0])
    denoise = inpainting.keep_in(denoise, path)
    if inpainting.resamplings == 1:
        return solver(denoise, x, path, pairs, noise=noise, eta=eta, callback=callback)
    n_done, n_steps = 0, inpainting.resamplings * len(pairs)
    for first in range(0, len(pairs), inpainting.jump):
        stretch = pairs[first : first + inpainting.jump]
        for repeat in range(inpainting.resamplings):
            if repeat > 0:
                x = renoise(x, noise(), path, stretch[-1][1], to=stretch[0][0])
            tell = _count_from(callback, n_done, n_steps)
            x = solver(denoise, x, path, stretch, noise=noise, eta=eta, callback=tell)
            n_done += len(stretch)
    return x


def renoise(x: Tensor, eps: Tensor, path: NoisePath, s: float, *, to: float) -> Tensor:
    """Return x_t from x_s for t > s by fresh noise eps, drawn from q(x_t | x_s).

        x_t = c x_s + sqrt(sigma_t^2 - c^2 sigma_s^2) eps,    c = alpha_t / alpha_s

    Source: Kingma et al. 2021, "Variational Diffusion Models", Appendix A.1.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(to), path.alpha_sigma(s)
    c = alpha_t / alpha_s
    return c * x + math.sqrt(max(sigma_t**2 - (c * sigma_s) ** 2, 0.0)) * eps


def _count_from(callback: Callback | None, n_done: int, n_steps: int) -> Callback | None:
    if callback is None:
        return None

    def tell(step: SolverStep) -> None:
        callback(replace(step, index=n_done + step.index, num_steps=n_steps))

    return tell


def _check_strength(strength: float) -> None:
    if not 0 < strength <= 1:
        raise ConfigError(
            f"strength is {strength}: a share in (0, 1] of the noise is needed; 1 keeps next to nothing of "
            "the original, a small number nearly all"
        )
