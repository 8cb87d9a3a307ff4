"""Give the train workflows of a package the settings of the packaged model in the place of the bundle's own.

What the model is (networks, space, conditions, noise path) is read off the model; how it was trained off the
recipe in its card, which cards of before have none of. Paths, devices and the like stay the bundle's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medldm.conditioning import ConditioningConfig
from medldm.configs import Config
from medldm.latent_diffusion.config import LatentDiffusionConfig, read_diffusion
from medldm.latent_diffusion.lineage import lineage_of
from medldm.latent_diffusion.model import LatentDiffusionModel, name_autoencoder_type
from medldm.latent_diffusion.recipe import OF_AUTOENCODER, OF_DIFFUSION, recipe_in
from medldm.latent_diffusion.recorded_split import split_in
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import LatentUNetConfig, VAEConfig
from medldm.sharing.yaml_values import is_plain, set_values
from medldm.training.configs import AutoencoderTrainingConfig
from medldm.training.losses.label_maps import LabelMapLossConfig
from medldm.training.losses.reconstruction import AutoencoderLossConfig
from medldm.training.warm_start.rates import WARMUP_STEPS
from medldm.transforms import IntensityMapping

OF_COHORT = ("in_channels", "out_channels", "checkpointing")
"""Fields of networks that follow from the cohort, or cost time in the place of memory."""
OF_CONDITIONS = ("cross_attention", "context_dim", "pooled_context", "augmentation_channels")
"""Fields of the denoiser that follow from what it is told."""
READ_OFF_COHORT = ("num_classes", "classes", "scalars", "structures", "partly_labelled", "image_intensity")
READ_OFF_ENCODER = ("text_embed_dim", "text_tokens", "text_encoder")


class TrainConfig:
    """The text of a train workflow, whose values are set one after the other.

    Args:
        text: of the YAML.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.unsaid: list[str] = []

    def set_knobs(self, values: Mapping[str, Any]) -> None:
        """Set knobs at the top; what the file has no knob for, or is no plain value, is noted."""
        known = yaml.safe_load(self.text)
        kept = {name: value for name, value in values.items() if name in known and is_plain(value)}
        self.unsaid += [name for name in values if name not in kept]
        self.text = set_values(self.text, kept)

    def set_config(
        self, own: Mapping[str, Any], *, of: type[Config], blocks: Sequence[str], leave: Collection[str] = ()
    ) -> None:
        """Set the fields of a configuration: as knobs, and those without one where it is built.

        Args:
            own: its fields.
            of: its class.
            blocks: names of the mappings in which it is built, "outer#inner", each for the fields that the
                one before does not know.
            leave: fields that the workflow finds out itself.
        """
        document = yaml.safe_load(self.text)
        knobs = {name: value for name, value in own.items() if name in document and name not in leave}
        self.set_knobs(knobs)
        found_out = {name: value for name, value in own.items() if name in leave}
        fixed = {name: value for block in blocks for name, value in _literals(document, block).items()}
        built = of.from_dict({**fixed, **found_out, **knobs}).to_dict()
        further = {
            name: value
            for name, value in own.items()
            if name not in knobs and name not in leave and built.get(name) != value
        }
        self.unsaid += [name for name, value in further.items() if not is_plain(value)]
        for block in blocks:
            known = VAEConfig.__dataclass_fields__ if block != blocks[-1] else further
            placed = {n: further.pop(n) for n in list(further) if n in known and is_plain(further[n])}
            self.text = set_values(self.text, placed, block=block.split("#"))


def write_train_configs(
    configs_dir: Path, model: LatentDiffusionModel, card: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write the settings of a model into the train workflows of a folder.

    Args:
        configs_dir: with `train_autoencoder.yaml` and `train_diffusion.yaml` of the bundle.
        model: whose architecture they get.
        card: of its checkpoint.

    Returns:
        What the workflows do not say of the model's training, one line each.
    """
    recipe, notes = recipe_in(card), []
    for stage, fill in ((OF_AUTOENCODER, _fill_autoencoder), (OF_DIFFUSION, _fill_diffusion)):
        file = configs_dir / f"train_{stage}.yaml"
        if not file.is_file():
            continue
        config = TrainConfig(file.read_text(encoding="utf-8"))
        if (split := split_in(card)) is not None:
            config.set_knobs({("split_seed" if n == "seed" else n): v for n, v in split.settings.items()})
        fill(config, model, card, recipe.get(stage, {}))
        file.write_text(config.text, encoding="utf-8")
        if stage not in recipe:
            notes.append(
                f"{file.name}: the checkpoint does not record rates, steps and batches; they are the bundle's"
            )
        if config.unsaid:
            notes.append(f"{file.name}: has no place for {', '.join(sorted(set(config.unsaid)))}")
        if lineage_of(card).get("denoiser" if stage == OF_DIFFUSION else "autoencoder"):
            notes.append(
                f"{file.name}: the model started from other weights, the workflow starts from nothing"
            )
    return tuple(notes)


def _fill_autoencoder(
    config: TrainConfig, model: LatentDiffusionModel, card: Mapping[str, Any], recipe: Mapping[str, Any]
) -> None:
    own = model.autoencoder_config
    fields = own.to_dict()
    fields["n_res_blocks"] = _one_or_all(fields["n_res_blocks"])
    if fields["downsampling"] and len(set(fields["downsampling"])) == 1:
        del fields["downsampling"]  # as the levels say
    if model.makes_label_maps:
        config.set_config(fields, of=type(own), blocks=["network_def"], leave=OF_COHORT)
    else:
        kind = name_autoencoder_type(own)
        config.set_knobs({"autoencoder_type": kind, "downsampling": None})
        blocks = ["network_def#options", *(["network_def#vqvae_options"] if kind == "vqvae" else [])]
        config.set_config(fields, of=type(own), blocks=blocks, leave=OF_COHORT)
    if model.space is not None:
        config.set_knobs(describe_space(model.space, of_images=not model.makes_label_maps))
    loss = LabelMapLossConfig if model.makes_label_maps else AutoencoderLossConfig
    _fill_recipe(config, recipe, {"loss#config": loss, "training#config": AutoencoderTrainingConfig})


def _fill_diffusion(
    config: TrainConfig, model: LatentDiffusionModel, card: Mapping[str, Any], recipe: Mapping[str, Any]
) -> None:
    unet = model.unet_config.to_dict()
    unet["n_res_blocks"] = _one_or_all(unet["n_res_blocks"])
    leave = (*OF_COHORT, *OF_CONDITIONS)
    config.set_config(unet, of=LatentUNetConfig, blocks=["model#unet_config"], leave=leave)
    _fill_conditioning(config, model.conditioning_config)
    if model.space is not None and model.space.channels:
        config.set_knobs({"channels": model.space.channels})
    path = read_diffusion(card["diffusion"])
    path["edm_spread"] = "channels" if model.latent_spectrum is None else "modes"
    _fill_recipe(config, {**recipe, **path}, {"config": LatentDiffusionConfig})


def _fill_conditioning(config: TrainConfig, conditioning: ConditioningConfig) -> None:
    own = {"structure_dropout": 0.0, **conditioning.to_dict()}
    columns: dict[str, Any] = {}
    if "class" in conditioning.conditioning_type:
        plain = ["class"] if conditioning.num_classes else []
        columns["class_columns"] = [*plain, *conditioning.classes]
    if "scalars" in conditioning.conditioning_type:
        columns["scalar_columns"] = list(conditioning.scalars)
    if conditioning.image_intensity is not None:
        columns["image_intensity"] = conditioning.image_intensity["kind"]
    config.set_knobs(columns)
    if "image_token_grid" not in yaml.safe_load(config.text):  # of label maps, which are told no volume
        own = {name: own[name] for name in own if name not in ("image_token_grid", "structure_dropout")}
    leave = (*READ_OFF_COHORT, *READ_OFF_ENCODER)
    config.set_config(own, of=ConditioningConfig, blocks=["model#conditioning_config"], leave=leave)


def _fill_recipe(config: TrainConfig, recipe: Mapping[str, Any], places: Mapping[str, type[Config]]) -> None:
    """Set what a card records of a training; `places` are the blocks of its configurations."""
    own = dict(recipe)
    if "learning_rate" in own:  # the knob says "auto", so that a training that starts from weights takes less
        own["auto_learning_rate"] = own.pop("learning_rate")
    if own.get("warmup_steps") == WARMUP_STEPS:
        del own["warmup_steps"]
    for block, of in places.items():
        known = {field.name for field in dataclasses.fields(of)}
        fields = {name: own.pop(name) for name in list(own) if name in known}
        config.set_config(fields, of=of, blocks=[block])
    config.set_knobs(own)


def describe_space(space: VolumeSpace, *, of_images: bool) -> dict[str, Any]:
    """Return the knobs of a volume space.

    Args:
        space: of a model.
        of_images: whether it has intensities and channels to choose.
    """
    knobs: dict[str, Any] = {"spacing_mm": space.spacing_mm, "size": space.size}
    if not of_images:
        return knobs
    kinds = [_describe_intensity(mapping) for mapping in space.intensities]
    named = dict(zip(space.channels, kinds, strict=True)) if space.channels else {}
    is_same = all(kind == kinds[0] for kind in kinds)
    knobs["intensity"] = kinds[0] if is_same else named
    knobs["channels"] = space.channels or None
    return {**knobs, "outside_value": space.outside_value}


def _describe_intensity(mapping: IntensityMapping) -> str | dict[str, Any]:
    """Return the kind of a mapping, with what is set and not measured on a cohort."""
    measured = () if mapping.kind == "ct_window" else ("lower", "upper")
    usual = IntensityMapping.from_dict(
        {"kind": mapping.kind, **{name: getattr(mapping, name) for name in measured}}
    ).to_dict()
    own = {name: value for name, value in mapping.to_dict().items() if value != usual[name]}
    return {"kind": mapping.kind, **own} if own else mapping.kind


def _one_or_all(values: Any) -> Any:
    """Return one number for a list of equal ones."""
    return values[0] if isinstance(values, list) and len(set(values)) == 1 else values


def _literals(document: Mapping[str, Any], block: str) -> dict[str, Any]:
    """Return the values of a block that are no references."""
    inner: Any = document
    for name in block.split("#"):
        inner = inner.get(name, {})
    return {
        name: value
        for name, value in inner.items()
        if name != "_target_"
        and not isinstance(value, Mapping)
        and not (isinstance(value, str) and value[:1] in ("@", "$"))
    }
