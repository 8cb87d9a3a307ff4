"""What a latent diffusion model can be asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medldm.configs import Config, unknown_name_message
from medldm.errors import ConfigError

CONDITION_TYPES = ("class", "scalars", "text", "label_map", "image")
SPATIAL_TYPES = ("label_map", "image")
RESERVED_NAMES = ("label", "condition_image", "mean", "std")
"""Keys of a training batch that no column may take."""


@dataclass(kw_only=True)
class ConditioningConfig(Config):
    """Describe the conditions of a model; an empty list makes an unconditional one.

    A type stands for one condition, or, for "class" and "scalars", for one condition for each column. Each
    condition has its own null, dropout and guidance weight.

    Args:
        conditioning_type: any of "class", "scalars", "text", "label_map" and "image", each once.
        num_classes: number of classes of the condition "class"; values run from 0 to num_classes - 1.
        classes: named categorical columns of "class": column to its categories, e.g. {"sex": ["F", "M"]};
            each is a condition of its name, its values the positions in the list.
        scalars: columns of "scalars": column to lowest and highest value in training, e.g. {"age": [20, 90]};
            each is a condition of its name.
        structures: the label schema of "label_map": value in the files (> 0) to name; 0 is background.
        partly_labelled: names of those that some label map of the training did not cover; in such a map they
            are unknown, not background.
        structure_dropout: probability, in [0, 1], with which a training sample loses a random part of its
            structures, every number of them as often: the model is told that they are unknown. Above 0, maps
            that cover some structures only can be used.
        text_embed_dim: width D of the token embeddings (B, N, D) given for "text".
        text_tokens: most tokens N of a text; shorter ones are padded by a learned token.
        text_encoder: identity of the encoder that made the embeddings; None where the user embeds.
        image_intensity: the intensity mapping of "image", as `IntensityMapping.to_dict` gives it.
        image_token_grid: with g > 0, "image" also gives g^3 tokens to cross-attention.
        context_dim: width of the tokens that the denoiser's cross-attention sees.
        label_channels: channels in which an encoded label map joins the denoiser's input.
        label_embed_dim: channels in which each voxel's structure is embedded at full resolution.
        image_channels: channels in which an encoded image joins the denoiser's input.
        conditioning_dropout: probability, in [0, 1), with which training replaces a condition by its learned
            null; one number for all or one for each name. Classifier-free guidance needs it above 0
            (Ho and Salimans 2022, Algorithm 1).
        drop_all_probability: of a training sample to lose all conditions together.
        keep_all_probability: of a training sample to keep all that it has. Where each condition shall work
            alone and with any others: dropout 0.5, and 0.1 for both (Huang et al. 2023, Section 2.2).

    Raises:
        ValueError: if a name is unknown or repeated, or a condition lacks what describes it.

    Examples:
        >>> config = ConditioningConfig(
        ...     conditioning_type=["label_map", "scalars"], structures={1: "liver"}, scalars={"age": [20, 90]}
        ... )
        >>> config.scalars["age"]
        (20, 90)
    """

    conditioning_type: tuple[str, ...] = ()
    num_classes: int | None = None
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scalars: dict[str, tuple[float, float]] = field(default_factory=dict)
    structures: dict[int, str] = field(default_factory=dict)
    partly_labelled: tuple[str, ...] = ()
    structure_dropout: float = 0.0
    text_embed_dim: int = 512
    text_tokens: int = 77
    text_encoder: str | None = None
    image_intensity: dict[str, Any] | None = None
    image_token_grid: int = 0
    context_dim: int = 256
    label_channels: int = 8
    label_embed_dim: int = 8
    image_channels: int = 8
    conditioning_dropout: float | dict[str, float] = 0.1
    drop_all_probability: float = 0.0
    keep_all_probability: float = 0.0

    def __post_init__(self) -> None:
        self.conditioning_type = read_names(self.conditioning_type)
        self.structures = {int(value): name for value, name in self.structures.items()}
        super().__post_init__()
        self._check_types()
        self._check_columns()
        self._check_numbers()
        self._check_dropout()
        self._check_unknown()

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions, in the order of their types and columns."""
        columns = {
            "class": (*(("class",) if self.num_classes else ()), *self.classes),
            "scalars": tuple(self.scalars),
        }
        return tuple(name for kind in self.conditioning_type for name in columns.get(kind, (kind,)))

    def n_categories(self, name: str) -> int | None:
        """Return how many integer values a condition has, background included; None for another kind."""
        if name == "class":
            return self.num_classes
        if name == "label_map":
            return len(self.structures) + 1
        return len(self.classes[name]) if name in self.classes else None

    def dropout_of(self, name: str) -> float:
        """Return the dropout probability of one condition."""
        if isinstance(self.conditioning_dropout, dict):
            return self.conditioning_dropout.get(name, 0.1)
        return self.conditioning_dropout

    @property
    def structure_names(self) -> tuple[str, ...]:
        """The structures of "label_map", in the order of their values."""
        return tuple(self.structures[value] for value in sorted(self.structures))

    @property
    def may_be_unknown(self) -> tuple[str, ...]:
        """The structures that the training told as unknown now and then; () for none."""
        if "label_map" not in self.conditioning_type:
            return ()
        return self.structure_names if self.structure_dropout > 0 else self.partly_labelled

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold.

        Where every map covers every structure, what says so is left out: what was made before it could be
        said keeps its name.
        """
        values = super().to_dict()
        if not self.partly_labelled and self.structure_dropout == 0:
            del values["partly_labelled"], values["structure_dropout"]
        return values

    @property
    def has_tokens(self) -> bool:
        """Whether any condition reaches the denoiser through cross-attention."""
        has_image_tokens = "image" in self.conditioning_type and self.image_token_grid > 0
        return has_image_tokens or any(name not in SPATIAL_TYPES for name in self.names)

    @property
    def spatial_channels(self) -> int:
        """Channels that the conditions add to the denoiser's input."""
        channels = {"label_map": self.label_channels, "image": self.image_channels}
        return sum(channels[name] for name in self.conditioning_type if name in channels)

    def _check_types(self) -> None:
        types = self.conditioning_type
        unknown = [name for name in types if name not in CONDITION_TYPES]
        if unknown:
            raise ConfigError(f"unknown conditioning_type {unknown}: choose from {list(CONDITION_TYPES)}")
        if len(set(types)) != len(types):
            raise ConfigError(f"conditioning_type {list(types)} names a condition twice: name each once")

    def _check_columns(self) -> None:
        taken = [*CONDITION_TYPES, *RESERVED_NAMES]
        for name, categories in self.classes.items():
            if name in taken or not categories or len(set(categories)) != len(categories):
                raise ConfigError(
                    f"classes has {name!r}: {list(categories)}; a name of its own and categories that are "
                    "listed once are needed"
                )
        taken += self.classes
        for name, (low, high) in self.scalars.items():
            if name in taken or not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"scalars has {name!r}: {[low, high]}; a name of its own and the lowest and highest "
                    "value are needed"
                )

    def check_complete(self) -> None:
        """Raise unless each type of condition has what describes it."""
        types = self.conditioning_type
        if "class" in types and not self.classes and self.num_classes is None:
            raise ConfigError(
                f"num_classes is {self.num_classes}: a 'class' condition needs the number of classes, or "
                "classes with named columns"
            )
        if "scalars" in types and not self.scalars:
            raise ConfigError("scalars is empty: a 'scalars' condition needs {column: [lowest, highest]}")
        if "label_map" in types and not self.structures:
            raise ConfigError(
                "structures is empty: a 'label_map' condition needs {value: name}, e.g. {1: 'liver'}"
            )

    def _check_numbers(self) -> None:
        self.require("[1, inf)", "num_classes", "text_embed_dim", "text_tokens", "context_dim")
        self.require("[1, inf)", "label_channels", "label_embed_dim", "image_channels")
        self.require("[0, inf)", "image_token_grid")
        if min(self.structures, default=1) < 1:
            raise ConfigError(
                f"structures has the value {min(self.structures)}: 0 is background, use values from 1"
            )

    def _check_unknown(self) -> None:
        self.require("[0, 1]", "structure_dropout")
        for name in self.partly_labelled:
            if name not in self.structures.values():
                names = self.structure_names
                raise ConfigError(unknown_name_message(name, names, kind="structure in partly_labelled"))

    def _check_dropout(self) -> None:
        if isinstance(self.conditioning_dropout, Mapping):
            strangers = sorted(set(self.conditioning_dropout) - set(self.names))
            if strangers:
                raise ConfigError(
                    f"conditioning_dropout names {strangers}, not among the conditions {list(self.names)}"
                )
        for name in self.names:
            if not 0 <= self.dropout_of(name) < 1:
                raise ConfigError(
                    f"conditioning_dropout of {name!r} is {self.dropout_of(name)}: a probability in "
                    "[0, 1) is needed"
                )
        together = (self.drop_all_probability, self.keep_all_probability)
        if min(together) < 0 or sum(together) > 1:
            raise ConfigError(
                f"drop_all_probability and keep_all_probability are {together[0]:g} and {together[1]:g}: "
                "probabilities whose sum is at most 1 are needed"
            )


def read_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names given as a list, or as one text: "class", "label_map,class" or "[label_map, class]".

    None is no name.

    Command lines give the last form: "class" is a word of Python, so that theirs is not read as a list.
    """
    if isinstance(names, str):
        names = [name.strip().strip("'\"") for name in names.strip().strip("[]()").split(",")]
    return tuple(name for name in names or () if name)
