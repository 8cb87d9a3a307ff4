"""The page and the metadata of a packaged model: what it is for, what it is not, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.volume_space import VolumeSpace, require_volume_space
from medldm.sharing.figures import Figure
from medldm.version import __version__

NOT_STATED = "not stated"
_KINDS = {
    "ct_window": "CT, in Hounsfield units",
    "mr_percentile": "MR, in the units of the training cohort",
    "identity_range": "in the units of the training cohort",
}
_READING = (
    "An AUC of 0.5 means that nothing tells the two apart: of real or synthetic, that volumes are like real "
    "ones; of membership, that nobody's presence in the training shows. Recall and coverage run from 0 to 1: "
    "the share of the real variety that is met. A Dice difference near 0 means that volumes follow their "
    "label maps; a ratio near 1, that synthetic cases train as well as real ones."
)


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """What a model card says beyond what the model itself says.

    Args:
        name: of the package.
        version: of the package.
        licence: of the weights.
        data: the cohort, its licence and whom to name.
        notes: the commands of the training, how long it took and on what machine.
        figures: of the report.
        weights_sha256: of the stored weights.
        storage: type of the stored weights and what it costs; None for float32.
        structures: value to name.
        has_label_maps: whether a model of label maps lies beside it.
        files: of `models/`, with what they are.
    """

    name: str
    version: str
    licence: str
    data: str
    notes: str
    figures: Sequence[Figure]
    weights_sha256: str
    storage: Mapping[str, Any] | None = None
    structures: Mapping[int, str] = field(default_factory=dict)
    has_label_maps: bool = False
    files: Mapping[str, str] = field(default_factory=dict)


def write_page(model: LatentDiffusionModel, content: CardContent) -> str:
    """Return the model card as Markdown."""
    space = require_volume_space(model.space)
    parts = [
        f"# {content.name}",
        _write_purpose(model, content),
        "## Use\n\n" + _write_use(model, content),
        "## Data and licence\n\n"
        f"- data: {content.data or NOT_STATED}\n- licence of the weights: {content.licence} (`LICENSE`)",
        "## Volumes it knows\n\n" + _write_space(model, space, content),
        "## Figures\n\n" + _write_figures(content),
        f"## How it was made\n\n{content.notes or NOT_STATED}",
        "## Files\n\n" + _write_files(content),
    ]
    return "\n\n".join(parts) + "\n"


def _write_purpose(model: LatentDiffusionModel, content: CardContent) -> str:
    what = "label maps" if model.makes_label_maps else "images"
    return (
        f"A latent diffusion model that makes 3D {what}, version {content.version}. **Research only.** What "
        "it makes is synthetic: it is not for diagnosis and measures nobody. It knows the anatomy, the "
        "scanners and the people of its training data and nothing else: no disease on purpose, no other age "
        "group. Whether it gives away its training patients is what the privacy figures below say."
    )


def _write_use(model: LatentDiffusionModel, content: CardContent) -> str:
    needs_maps = "label_map" in model.conditioning_config.conditioning_type and not content.has_label_maps
    command = (
        f"medldm generate FOLDER outputs {'--label-dir LABEL_MAPS' if needs_maps else '--num-samples 4'}"
    )
    lines = ["FOLDER is this package's; after the installation no internet connection is needed."]
    if needs_maps:
        lines.append(
            "LABEL_MAPS is a folder of label maps of yours (NIfTI) with the values below; one volume is made "
            "for each."
        )
    elif not model.makes_label_maps and content.has_label_maps:
        lines.append("The label maps that the volumes are made from are drawn, too; they are no patient's.")
    lines += [
        "",
        "    pip install medldm",
        f"    {command}",
        "",
        "To train such a model on a cohort of yours:",
    ]
    return "\n".join([*lines, "", "    medldm train all COHORT OUT --bundle FOLDER"])


def _write_space(model: LatentDiffusionModel, space: VolumeSpace, content: CardContent) -> str:
    lines = [
        f"- spacing {_join(space.spacing_mm)} mm, {_join(space.size)} voxels, field of view "
        f"{_join(space.field_of_view_mm)} mm, axes {space.orientation}",
        "- label maps of another spacing are resampled; generation warns where a map reaches beyond the "
        "field of view or has a spacing far from this one: the model was not trained there",
    ]
    if not model.makes_label_maps:
        lines.append(f"- intensities: {_name_intensities(space)}")
    if content.structures:
        lines.append("- structures: " + ", ".join(f"{v} {name}" for v, name in content.structures.items()))
    config = model.conditioning_config
    lines += [f"- {name}: one of {', '.join(values)}" for name, values in config.classes.items()]
    lines += [f"- {name}: {low:g} to {high:g}" for name, (low, high) in config.scalars.items()]
    return "\n".join(lines)


def _name_intensities(space: VolumeSpace) -> str:
    kinds = [mapping.kind for mapping in space.intensities]
    named = zip(space.channels, kinds, strict=True) if space.channels else [("", kinds[0])]
    words = ", ".join(f"{name} {_KINDS.get(kind, kind)}".strip() for name, kind in named)
    outside = "" if space.outside_value is None else f"; {space.outside_value:g} outside of the body"
    return f"{words}{outside}" + (f"; {space.intensity_note}" if space.intensity_note else "")


def _write_figures(content: CardContent) -> str:
    rows = [
        f"| {each.section} | {each.title} | {each.synthetic} | {each.real} |".replace("|  |", "| |")
        for each in content.figures
    ]
    head = "| | | synthetic (95 % interval) | the same of real cases |\n|---|---|---|---|\n"
    return f"Of these very weights, by `medldm evaluate`. {_READING}\n\n{head}" + "\n".join(rows)


def _write_files(content: CardContent) -> str:
    lines = [f"- `models/{name}`: {what}" for name, what in content.files.items()]
    lines.append(f"- hash of the stored weights (SHA-256): `{content.weights_sha256}`")
    if content.storage is not None:
        loss = content.storage["loss"]
        lines.append(
            f"- weights are stored as {content.storage['dtype']} and load exactly as they are stored. "
            f"Rounding changed a weight by at most {loss['weights']:.2g} of the largest of its tensor, and "
            f"decoded volumes by {loss['volume']:.2g} (root mean square, of a range of 2). Figures above are "
            f"of the weights before rounding, `{content.storage['rounded_from'][:12]}...`"
        )
    return "\n".join(lines)


def fill_metadata(
    base: Mapping[str, Any], model: LatentDiffusionModel, content: CardContent
) -> dict[str, Any]:
    """Return a bundle's metadata.json with what a packaged model says of itself.

    Args:
        base: metadata of the bundle that the model was trained with.
        model: the model.
        content: of its card.
    """
    space = require_volume_space(model.space)
    measured = {each.title: each.synthetic for each in content.figures}
    return {
        **base,
        "version": content.version,
        "changelog": {content.version: f"weights {content.weights_sha256[:12]}"},
        "required_packages_version": {**base["required_packages_version"], "medldm": __version__},
        "name": content.name,
        "copyright": f"licence of the weights: {content.licence}",
        "license": content.licence,
        "data_source": content.data or NOT_STATED,
        "label_classes": ", ".join(f"{v} {name}" for v, name in content.structures.items()) or "none",
        "eval_metrics": measured,
        "spacing_mm": list(space.spacing_mm),
        "size": list(space.size),
        "field_of_view_mm": list(space.field_of_view_mm),
        "network_data_format": _describe_network(model, space, content),
    }


def _describe_network(
    model: LatentDiffusionModel, space: VolumeSpace, content: CardContent
) -> dict[str, Any]:
    """Return what `monai.bundle verify_net_in_out` is told: the autoencoder, a volume in and a volume out."""
    config = model.autoencoder_config
    is_ct = all(mapping.kind.startswith("ct") for mapping in space.intensities)
    names = ["background", *content.structures.values()] if model.makes_label_maps else list(space.channels)
    common = {
        "type": "image",
        "format": "segmentation" if model.makes_label_maps else ("hounsfield" if is_ct else "magnitude"),
        "modality": "n/a" if model.makes_label_maps else ("CT" if is_ct else "MR"),
        "spatial_shape": ["16*n"] * 3,
        "dtype": "float32",
        "is_patch_data": False,
    }
    limits = [0, 1] if model.makes_label_maps else [-1, 1]
    sides = {
        "inputs": ("image", config.in_channels, limits),
        "outputs": ("pred", config.out_channels, limits),
    }
    if model.makes_label_maps:
        sides["outputs"] = ("pred", config.out_channels, [])
    return {
        side: {
            key: {
                **common,
                "num_channels": n,
                "value_range": value_range,
                "channel_def": {str(i): names[i] if i < len(names) else "image" for i in range(n)},
            }
        }
        for side, (key, n, value_range) in sides.items()
    }


def _join(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
