"""All conditions of a model together: validation, dropout and encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medldm.conditioning.conditioner import Conditioner, EncodedConditions
from medldm.conditioning.conditions import Conditions
from medldm.conditioning.config import ConditioningConfig
from medldm.conditioning.spatial_conditioners import ImageConditioner, LabelMapConditioner
from medldm.conditioning.token_conditioners import ClassConditioner, ScalarConditioner, TextConditioner
from medldm.errors import ConfigError

RANGE_TOLERANCE = 1e-6
"""Share of a scalar's range by which a value may lie outside of it: room for float32."""


class ConditionEncoder(nn.Module):
    """Encode any combination of conditions.

    Args:
        config: the conditions of the model.
        downsampling: how much smaller the latent grid is than the volume, one factor for each axis.
    """

    def __init__(self, config: ConditioningConfig, *, downsampling: Sequence[int]) -> None:
        super().__init__()
        self.config = config = config.copy()
        # Named by number: a column may have any name, a module of ModuleDict not.
        self.conditioners = nn.ModuleList(
            make_conditioner(config, name, downsampling=downsampling) for name in config.names
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions of this model, in the order of their tokens."""
        return self.config.names

    def check(self, conditions: Conditions) -> None:
        """Refuse conditions the model was not trained with, and values outside their range.

        Raises:
            ConfigError: naming the condition, what was found and what is allowed.
        """
        strangers = sorted(set(conditions.values) - set(self.names))
        if strangers:
            known = list(self.names) or "none (the model is unconditional)"
            raise ConfigError(f"this model was trained without the conditions {strangers}: it knows {known}")
        for name, value in conditions.values.items():
            present = value[~conditions.is_absent(name, len(value), value.device)]
            if present.numel():
                self._check_range(name, present)
        for name, mask in conditions.unknown.items():
            self.check_unknown(mask[~conditions.is_absent(name, len(mask), mask.device)])

    def _check_range(self, name: str, present: Tensor) -> None:
        n_values = self.config.n_categories(name)
        low, high = self.config.scalars.get(name, (0, (n_values or 1) - 1))
        if n_values is None and name not in self.config.scalars:
            return
        margin = RANGE_TOLERANCE * (high - low) if n_values is None else 0
        # `not >=` also refuses NaN.
        if not (present.min() >= low - margin and present.max() <= high + margin):
            found = f"{present.min().item():g} to {present.max().item():g}"
            raise ConfigError(f"{name} has values from {found}: this model knows {low:g} to {high:g}")

    def check_unknown(self, mask: Tensor) -> None:
        """Refuse unknown structures (B, K) that the training never told as unknown.

        Raises:
            ConfigError: naming them.
        """
        names = self.config.structure_names
        found = [name for name, each in zip(names, mask.any(dim=0).tolist(), strict=True) if each]
        if never := [name for name in found if name not in self.config.may_be_unknown]:
            known = list(self.config.may_be_unknown) or "none"
            raise ConfigError(
                f"the label map does not cover {never}, and this model's training never said that of them: "
                f"structures that may be unknown to it are {known}; train with structure_dropout, or give "
                "maps that cover them"
            )

    def draw_unknown(self, batch_size: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw which structures of which samples become unknown in this training step: (B, K) bool by name.

        A sample is chosen with `structure_dropout`. The share u of structures that it loses is uniform, and
        each is lost with probability u, so that every number of them occurs equally often. Nothing is drawn
        where `structure_dropout` is 0.
        """
        config = self.config
        if config.structure_dropout == 0 or "label_map" not in self.names:
            return {}
        is_chosen = torch.rand(batch_size, 1, generator=generator) < config.structure_dropout
        share = torch.rand(batch_size, 1, generator=generator)
        is_lost = torch.rand(batch_size, len(config.structures), generator=generator) < share
        return {"label_map": is_lost & is_chosen}

    def draw_dropout(self, batch_size: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw which samples lose which condition in this training step: name to (B,) bool.

        Independent for each condition, but for the samples that lose all or keep all.

        Source: Ho and Salimans 2022, Algorithm 1; Huang et al. 2023, "Composer", Section 2.2.
        """
        config = self.config
        draws = {name: torch.rand(batch_size, generator=generator) for name in self.names}
        drop = {name: draw < config.dropout_of(name) for name, draw in draws.items()}
        if config.drop_all_probability == config.keep_all_probability == 0:
            return drop
        together = torch.rand(batch_size, generator=generator)
        loses_all = together < config.drop_all_probability
        keeps_all = together >= 1 - config.keep_all_probability
        return {name: (mask | loses_all) & ~keeps_all for name, mask in drop.items()}

    def encode_values(self, conditions: Conditions | None) -> dict[str, EncodedConditions]:
        """Encode the values that are there, without their nulls; the costly part, once for a sampling."""
        values = {} if conditions is None else conditions.values
        unknown = {} if conditions is None else conditions.unknown
        return {
            name: self[name].encode(values[name], unknown.get(name)) for name in self.names if name in values
        }

    def assemble(
        self,
        encoded: Mapping[str, EncodedConditions],
        absent: Mapping[str, Tensor],
        *,
        batch_size: int,
        latent_size: Sequence[int],
    ) -> EncodedConditions:
        """Put nulls in place and join the conditions.

        Args:
            encoded: of `encode_values`, repeated to B rows where a step has several passes.
            absent: name to (B,) bool; names that are missing are present in every row.
            batch_size: B.
            latent_size: the latent grid (x, y, z).
        """
        tokens: list[Tensor] = []
        spatial: list[Tensor] = []
        for name in self.names:
            conditioner = self[name]
            if name not in encoded:
                part = conditioner.expand_null(batch_size, latent_size)
            elif name in absent:
                part = conditioner.with_null(encoded[name], absent[name])
            else:
                part = encoded[name]
            if part.tokens is not None:
                tokens.append(part.tokens)
            if part.spatial is not None:
                _check_grid(name, part.spatial, latent_size)
                spatial.append(part.spatial)
        return EncodedConditions(
            torch.cat(tokens, dim=1) if tokens else None,
            torch.cat(spatial, dim=1) if spatial else None,
            torch.stack([part.mean(dim=1) for part in tokens]).sum(dim=0) if tokens else None,
        )

    def forward(
        self,
        conditions: Conditions | None,
        *,
        batch_size: int,
        latent_size: Sequence[int],
        drop: Mapping[str, Tensor] | None = None,
    ) -> EncodedConditions:
        """Encode a batch of conditions.

        Args:
            conditions: the values, or None for the null of every condition.
            batch_size: B.
            latent_size: the latent grid (x, y, z).
            drop: name to (B,) bool: samples whose condition is replaced by its null.
        """
        conditions = Conditions({}) if conditions is None else conditions.drop(drop or {})
        encoded = self.encode_values(conditions)
        return self.assemble(encoded, conditions.absent, batch_size=batch_size, latent_size=latent_size)

    def __getitem__(self, name: str) -> Conditioner:
        return self.conditioners[self.names.index(name)]  # type: ignore[return-value]


def make_conditioner(config: ConditioningConfig, name: str, *, downsampling: Sequence[int]) -> Conditioner:
    """Build the module of one condition."""
    width = config.context_dim
    if name == "label_map":
        return LabelMapConditioner(
            len(config.structures),
            embed_dim=config.label_embed_dim,
            channels=config.label_channels,
            downsampling=downsampling,
            may_be_unknown=bool(config.may_be_unknown),
        )
    if name == "image":
        return ImageConditioner(
            channels=config.image_channels,
            downsampling=downsampling,
            token_grid=config.image_token_grid,
            context_dim=width,
        )
    if name == "text":
        return TextConditioner(config.text_embed_dim, n_tokens=config.text_tokens, context_dim=width)
    if name in config.scalars:
        return ScalarConditioner(*config.scalars[name], context_dim=width)
    return ClassConditioner(config.n_categories(name) or 0, context_dim=width)


def _check_grid(name: str, part: Tensor, latent_size: Sequence[int]) -> None:
    if tuple(part.shape[2:]) != tuple(latent_size):
        raise ValueError(
            f"the condition {name!r} comes to the grid {tuple(part.shape[2:])}, but the latents have "
            f"{tuple(latent_size)}: give it on the grid of the volume"
        )
