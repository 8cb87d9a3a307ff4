"""Sampling from an original: keep a region of its latents exactly, or begin from it in part.

A kept region needs no solver of its own. Where latents are to be kept, x_0 is known, and by Eq. (1) of
`kernel` so is eps. Telling a solver these two in the place of the network's estimates keeps the region on the
path to the original, and every solver ends exactly at it: DDIM moves it along (1) with one eps, DDPM draws it
from q(x_s | x_t, x_0) with the x_0 that is true.

    Source: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations",
    Appendix I.2; Lugmayr et al. 2022, "RePaint", Eq. 8.

The free part sees the kept part only with its noise, so that its law is near the conditional one, not equal
to it. Going back up to more noise and down again (`InpaintingMask.resamplings`) brings it nearer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.diffusion import solvers
from medldm.diffusion.kernel import find_noise
from medldm.diffusion.paths import NoisePath
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
        """Replace the kept part of the noise x (B, C, ...) by the original with this noise on it."""
        self._check(x)
        return torch.where(self.is_kept, path.add_noise(self.original, x, t), x)

    def keep_in(self, denoise: solvers.Denoise, path: NoisePath) -> solvers.Denoise:
        """Wrap a solver's `denoise`: x_0 and eps of the kept part are those of the original."""

        def denoise_rest(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            self._check(x)
            x_0, eps = denoise(x, t)
            known = self.x_0_at.get(t, self.original)
            known_eps = find_noise(x, known, *path.alpha_sigma(t))
            return torch.where(self.is_kept, known, x_0), torch.where(self.is_kept, known_eps, eps)

        return denoise_rest

    def resample(self, solver: solvers.Solver, *, noise: solvers.Noise) -> solvers.Solver:
        """Wrap a solver: each stretch of `jump` steps is made `resamplings` times."""

        def solve(denoise: solvers.Denoise, x: Tensor, steps: solvers.Steps) -> Iterator[solvers.SolverState]:
            for first in range(0, len(steps), self.jump):
                stretch = steps[first : first + self.jump]
                for repeat in range(self.resamplings):
                    if repeat > 0:
                        x = renoise(x, noise(), stretch)
                    for state in solver(denoise, x, stretch):
                        yield state
                    x = state.x

        return solver if self.resamplings == 1 else solve

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

    def begin(self, drawn: Tensor, path: NoisePath, steps: solvers.Steps) -> tuple[Tensor, solvers.Steps]:
        """Return the state at the first step, and the steps to make, from those of a whole run."""
        if drawn.shape != self.latents.shape:
            raise ValueError(
                f"the start has the shape {tuple(self.latents.shape)}, but {tuple(drawn.shape)} is sampled"
            )
        steps = last_steps(path, steps, strength=self.strength)
        noise = drawn if self.noise is None else self.noise
        return path.add_noise(self.latents, noise, steps[0].t), steps


def last_steps(path: NoisePath, steps: solvers.Steps, *, strength: float) -> solvers.Steps:
    """Return the steps from times up to `strength` times the final time; the last step at least."""
    _check_strength(strength)
    latest = strength * path.final_time * (1 + 1e-9)
    return [step for step in steps if step.t <= latest] or list(steps[-1:])


class Inversion(NamedTuple):
    """What leads a deterministic solver to given latents.

    Attributes:
        noise: (B, C, ...) to put on the latents at the first time of the steps, for `PartialStart`.
        x_0_at: time to the estimate of x_0 on the way, for `InpaintingMask`; at the last time the latents.
    """

    noise: Tensor
    x_0_at: dict[float, Tensor]


def invert_noise(denoise: solvers.Denoise, x_0: Tensor, steps: solvers.Steps) -> Inversion:
    """Find the noise that, put on x_0 at the time of the first step, DDIM turns into x_0 again.

    The error is of first order in the steps; see `solvers.invert_ddim`.
    """
    solvers.check_steps(steps)
    x_0_at: dict[float, Tensor] = {}
    for state in solvers.invert_ddim(denoise, x_0, steps):
        x_0_at[state.step.t] = state.x_0
    return Inversion(find_noise(state.x, x_0, state.step.alpha_t, state.step.sigma_t), x_0_at)


def sample_from(
    solver: solvers.Solver,
    denoise: solvers.Denoise,
    path: NoisePath,
    steps: solvers.Steps,
    *,
    noise: solvers.Noise,
    callback: solvers.Callback | None = None,
    inpainting: InpaintingMask | None = None,
    start: PartialStart | None = None,
) -> Tensor:
    """Run a solver from noise, or from a partly noised start, and keep a region if one is given.

    Args:
        solver: made by `make_solver`.
        denoise: see `solvers.Denoise`.
        path: noise path.
        steps: of a whole run, from the final time.
        noise: returns fresh standard normal noise; its first is what the run begins with.
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
        x, steps = start.begin(x, path, steps)
    if inpainting is None:
        return solvers.run_solver(solver, denoise, x, steps, callback=callback)
    if start is None:
        x = inpainting.put_noised(x, path, steps[0].t)
    return solvers.run_solver(
        inpainting.resample(solver, noise=noise),
        inpainting.keep_in(denoise, path),
        x,
        steps,
        repeats=inpainting.resamplings,
        callback=callback,
    )


def renoise(x: Tensor, eps: Tensor, steps: solvers.Steps) -> Tensor:
    """Return x_t at the first step's t from x_s at the last one's s, by fresh noise: from q(x_t | x_s).

        x_t = c x_s + sqrt(sigma_t^2 - c^2 sigma_s^2) eps,    c = alpha_t / alpha_s

    Source: Kingma et al. 2021, "Variational Diffusion Models", Appendix A.1.
    """
    first, last = steps[0], steps[-1]
    c = first.alpha_t / last.alpha_s
    return c * x + math.sqrt(max(first.sigma_t**2 - (c * last.sigma_s) ** 2, 0.0)) * eps


def _check_strength(strength: float) -> None:
    if not 0 < strength <= 1:
        raise ConfigError(
            f"strength is {strength}: a share in (0, 1] of the noise is needed; 1 keeps next to nothing of "
            "the original, a small number nearly all"
        )
