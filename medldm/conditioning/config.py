"""What a latent diffusion model can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from medldm.configs import Config

CONDITION_TYPES = ("class", "label_map", "text")


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig(Config):
    """Describe the conditions of a model; an empty list makes an unconditional one.

    Args:
        conditioning_type: names of the conditions, any of "class", "label_map" and "text", each once.
        num_classes: number of classes of "class"; values run from 0 to num_classes - 1.
        structures: the label schema of "label_map": value in the files (> 0) to name; 0 is background.
        text_embed_dim: width D of the token embeddings (B, N, D) given for "text".
        context_dim: width of the tokens that the denoiser's cross-attention sees.
        label_channels: channels in which an encoded label map joins the denoiser's input.
        label_embed_dim: channels in which each voxel's structure is embedded at full resolution.
        conditioning_dropout: probability, in [0, 1), with which training replaces a condition by its learned
            null; one number for all or one for each name. Classifier-free guidance needs it above 0
            (Ho and Salimans 2022, Algorithm 1).

    Raises:
        ValueError: if a name is unknown or repeated, or a condition lacks what describes it.
    """

    conditioning_type: tuple[str, ...] = ()
    num_classes: int | None = None
    structures: dict[int, str] = field(default_factory=dict)
    text_embed_dim: int = 512
    context_dim: int = 256
    label_channels: int = 8
    label_embed_dim: int = 8
    conditioning_dropout: float | dict[str, float] = 0.1

    def __post_init__(self) -> None:
        names = self.conditioning_type
        names = (names,) if isinstance(names, str) else tuple(names)
        object.__setattr__(self, "conditioning_type", names)
        object.__setattr__(self, "structures", {int(value): name for value, name in self.structures.items()})
        self._check_names(names)
        self._check_descriptions(names)
        for name in names:
            if not 0 <= self.dropout_of(name) < 1:
                raise ValueError(
                    f"conditioning_dropout of {name!r} is {self.dropout_of(name)}: a probability in "
                    "[0, 1) is needed"
                )

    def _check_names(self, names: tuple[str, ...]) -> None:
        unknown = [name for name in names if name not in CONDITION_TYPES]
        if unknown:
            raise ValueError(f"unknown conditioning_type {unknown}: choose from {list(CONDITION_TYPES)}")
        if len(set(names)) != len(names):
            raise ValueError(f"conditioning_type {list(names)} names a condition twice: name each once")
        if isinstance(self.conditioning_dropout, dict):
            strangers = sorted(set(self.conditioning_dropout) - set(names))
            if strangers:
                raise ValueError(
                    f"conditioning_dropout names {strangers}, not in conditioning_type {list(names)}"
                )

    def _check_descriptions(self, names: tuple[str, ...]) -> None:
        if "class" in names and (self.num_classes is None or self.num_classes < 1):
            raise ValueError(
                f"num_classes is {self.num_classes}: a 'class' condition needs the number of classes"
            )
        if "label_map" in names and not self.structures:
            raise ValueError(
                "structures is empty: a 'label_map' condition needs {value: name}, e.g. {1: 'liver'}"
            )
        if min(self.structures, default=1) < 1:
            raise ValueError(
                f"structures has the value {min(self.structures)}: 0 is background, use values from 1"
            )
        for name in ("text_embed_dim", "context_dim", "label_channels", "label_embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is needed")

    def dropout_of(self, name: str) -> float:
        """Return the dropout probability of one condition."""
        if isinstance(self.conditioning_dropout, dict):
            return self.conditioning_dropout.get(name, 0.1)
        return self.conditioning_dropout

    @property
    def has_tokens(self) -> bool:
        """Whether any condition reaches the denoiser through cross-attention."""
        return any(name in ("class", "text") for name in self.conditioning_type)

    @property
    def spatial_channels(self) -> int:
        """Channels that the conditions add to the denoiser's input."""
        return self.label_channels if "label_map" in self.conditioning_type else 0
