"""How volumes are drawn: solver, steps, guidance, seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medldm.configs import Config
from medldm.diffusion import PRESETS, SOLVERS
from medldm.errors import ConfigError


@dataclass(kw_only=True)
class SamplingConfig(Config):
    """Set how volumes are drawn.

    Args:
        preset: "fast", "balanced" or "reference": solver, number of steps and time grid, as measured in
            docs/reference/diffusion.md; what is set below overrides it.
        num_steps: of the solver; None for the preset's.
        solver: one of medldm.diffusion.SOLVERS; None for the preset's.
        grid: how the steps are spread over the times; None for the preset's, or "trailing" for a solver that
            is not the preset's.
        eta: noise that the solver "ddim" adds, 0 to 1 (Song et al. 2021, Eq. 16).
        guidance_scale: w of classifier-free guidance, one for all conditions together or one for each name; 1
            is the plain conditional model, 0 the unconditional one (Ho and Salimans 2022, Eq. 6, with their
            w + 1).
        guidance_interval: noise levels sigma / alpha, low < level <= high, at which guidance acts
            (Kynkäänniemi et al. 2024); None for all.
        guidance_rescale: 0 to 1, how far the spread of the guided output is brought back to the conditional
            one (Lin et al. 2023, Eq. 15 and 16).
        max_memory_gb: memory of the decoder, in 10^9 bytes above its weights; larger volumes are streamed
            through its layers, with the same result. None for no limit.
        texture: "auto" draws the texture of a model that has one: noise with the statistics of real volumes,
            not anatomy, see `medldm.latent_diffusion.texture`. False draws none, True insists on one.
        seed: of all randomness; volume i of a seed is the same alone or among others.

    Raises:
        ValueError: if a name is unknown or a number outside its range.

    Examples:
        >>> SamplingConfig(preset="fast", guidance_scale={"label_map": 1.5, "age": 3.0}).guidance_scale
        {'label_map': 1.5, 'age': 3.0}
    """

    preset: str = "balanced"
    num_steps: int | None = None
    solver: str | None = None
    grid: str | None = None
    eta: float = 0.0
    guidance_scale: float | dict[str, float] = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    max_memory_gb: float | None = None
    texture: bool | Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("preset", PRESETS), ("solver", SOLVERS)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ConfigError(f"{name} is {value!r}: choose from {list(allowed)}")
        self.require("[1, inf)", "num_steps")
        self.require("(0, inf]", "max_memory_gb")
        self.require("[0, inf)", "seed")

    @property
    def solver_name(self) -> str:
        """The solver, the preset's if none is set."""
        return self.solver or PRESETS[self.preset].solver

    @property
    def n_steps(self) -> int:
        """The number of steps, the preset's if none is set."""
        return self.num_steps or PRESETS[self.preset].num_steps

    @property
    def grid_name(self) -> str:
        """The time grid, the preset's if neither it nor another solver is set."""
        preset = PRESETS[self.preset]
        return self.grid or (preset.grid if self.solver_name == preset.solver else "trailing")

    @property
    def interval(self) -> tuple[float, float]:
        """The noise levels at which guidance acts."""
        low, high = self.guidance_interval or (0.0, math.inf)
        return float(low), float(high)
