"""Make medldm checkpoints of the weights of MONAI's and MAISI's networks.

An autoencoder becomes the first stage of a training: its checkpoint is what stage 1 writes, and says in its
card where the weights come from and under which licence they stand. A denoiser is kept with its
configuration, for the Python API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medldm.errors import CheckpointError, ConfigError
from medldm.files import hash_file
from medldm.latent_diffusion.checkpoints import build_with_weights, load_checkpoint, save_checkpoint
from medldm.latent_diffusion.foreign_weights import read_arguments, read_foreign_weights
from medldm.latent_diffusion.lineage import AUTOENCODER, describe_lineage
from medldm.latent_diffusion.model_files import describe_autoencoder
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import LatentUNet, LatentUNetConfig
from medldm.networks.pretrained import infer_arguments as infer
from medldm.networks.pretrained import maisi_weights, monai_weights

ORIGIN_KEY = "origin"
"""Name in a card of where weights come from that medldm has not trained."""
DENOISER = "denoiser"
"""The kind of a checkpoint that holds a denoiser alone."""


@dataclass(frozen=True, kw_only=True)
class ForeignNetwork:
    """A network whose weights can be imported.

    Args:
        build: makes ours from weights and constructor arguments.
        infer: reads arguments from weights.
        untold: arguments that no weight tells, with what is taken for them.
        sections: keys of a file under which its weights may stand.
        definitions: keys of a bundle's config under which its arguments may stand.
    """

    build: Callable[..., Any]
    infer: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    untold: Mapping[str, Any]
    sections: tuple[str, ...]
    definitions: tuple[str, ...]

    @property
    def is_autoencoder(self) -> bool:
        """Whether it becomes a first stage."""
        return self.build is not monai_weights.unet_from_monai


_OF_AUTOENCODER = {
    "sections": ("autoencoder_state_dict", "autoencoder"),
    "definitions": ("autoencoder_def", "autoencoder"),
}
_NORM = {"norm_num_groups": 32, "norm_eps": 1e-6}
NETWORKS: Mapping[str, ForeignNetwork] = {
    "maisi-autoencoder": ForeignNetwork(
        build=maisi_weights.vae_from_maisi,
        infer=maisi_weights.infer_maisi_arguments,
        untold=_NORM,
        **_OF_AUTOENCODER,
    ),
    "monai-autoencoder": ForeignNetwork(
        build=monai_weights.vae_from_monai,
        infer=infer.infer_autoencoder_arguments,
        untold=_NORM,
        **_OF_AUTOENCODER,
    ),
    "monai-vqvae": ForeignNetwork(
        build=monai_weights.vqvae_from_monai,
        infer=infer.infer_vqvae_arguments,
        untold={
            "downsample_parameters": (2, 4, 1, 1),
            "upsample_parameters": (2, 4, 1, 1, 0),
            "act": "RELU",
            "output_act": None,
        },
        **_OF_AUTOENCODER,
    ),
    "monai-unet": ForeignNetwork(
        build=monai_weights.unet_from_monai,
        infer=infer.infer_unet_arguments,
        untold={"num_head_channels": 8, **_NORM},
        sections=("unet_state_dict", "diffusion_state_dict", "diffusion", "unet"),
        definitions=("diffusion_def", "diffusion_unet_def", "unet_def", "diffusion"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What has been imported.

    Args:
        network: ours, with the weights.
        arguments: of MONAI's constructor that decide its outputs.
        assumed: those of them that neither the weights nor the user told.
        weights_sha256: hash of the checkpoint's weights.
    """

    network: nn.Module
    arguments: dict[str, Any]
    assumed: dict[str, Any]
    weights_sha256: str


def import_weights(
    path: str | Path,
    output: str | Path,
    *,
    kind: str,
    arguments: str | Path | None = None,
    space: VolumeSpace | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    licence: str | None = None,
) -> Imported:
    """Write a medldm checkpoint with the weights of a MONAI network.

    Args:
        path: a safetensors file, or one of `torch.save`, see `read_foreign_weights`.
        output: the checkpoint.
        kind: one of `NETWORKS`.
        arguments: JSON file of what MONAI's constructor was called with; None where the weights and MONAI's
            defaults tell.
        space: of an autoencoder: the volumes that it is for.
        value_range: of an autoencoder: the values that its training gave the darkest and brightest voxels.
        licence: of the weights, in words; kept in the card.

    Raises:
        CheckpointError: if the file is not one of tensors, or its weights are not those of the network.
        ConfigError: if an argument contradicts the weights, or the space is missing.
    """
    if kind not in NETWORKS:
        raise ConfigError(f"--as is {kind!r}: choose from {list(NETWORKS)}")
    foreign = NETWORKS[kind]
    if foreign.is_autoencoder != (space is not None):
        raise ConfigError(
            f"a {kind} needs spacing, size and intensity of the volumes that it is for"
            if foreign.is_autoencoder
            else f"a {kind} has no spacing, size and intensity: leave them out"
        )
    own_path = Path(path)
    weights = read_foreign_weights(own_path, sections=foreign.sections)
    _require_names(kind, weights)
    told = {} if arguments is None else read_arguments(arguments, definitions=foreign.definitions)
    inferred = foreign.infer(weights)
    _require_agreement(told, inferred)
    assumed = {name: value for name, value in foreign.untold.items() if name not in told}
    whole = {**assumed, **inferred, **told}
    network = _build(foreign, weights, whole, assumed).eval()
    origin = {
        "as": kind,
        "file": own_path.name,
        "file_sha256": hash_file(own_path),
        "licence": licence,
        "arguments": {name: _plain(value) for name, value in whole.items()},
        "assumed": sorted(assumed),
    }
    if foreign.is_autoencoder:
        network.config.update(value_range=value_range)
        _require_channels(network, space)
        own, card = describe_autoencoder(network, space)()
        ancestor = {"file_sha256": origin["file_sha256"], "kind": kind, "licence": licence}
        card |= describe_lineage({AUTOENCODER: [ancestor]})
    else:
        own, card = network.state_dict(), {"kind": DENOISER, "unet": network.config.to_dict()}
    digest = save_checkpoint(output, own, {**card, ORIGIN_KEY: origin})
    return Imported(network=network, arguments=whole, assumed=assumed, weights_sha256=digest)


def load_denoiser(path: str | Path) -> LatentUNet:
    """Rebuild the denoiser that `import_weights` has written.

    Raises:
        CheckpointError: if the file is damaged or of another kind.
    """
    checkpoint = load_checkpoint(path, kind=DENOISER)
    config = LatentUNetConfig.from_dict(checkpoint.card["unet"])
    return build_with_weights(lambda: LatentUNet(config), checkpoint.weights, source=str(path)).eval()


def _require_names(kind: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse MAISI's names for MONAI's network, and the other way round."""
    is_maisi = maisi_weights.has_maisi_names(weights)
    if infer.recognise_network(weights) == infer.AUTOENCODER and is_maisi != (kind == "maisi-autoencoder"):
        other = "maisi-autoencoder" if is_maisi else "monai-autoencoder"
        raise CheckpointError(f"the weights have the names of another network: import them --as {other}")


def _require_agreement(told: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
    """Refuse arguments that the weights contradict, naming what the weights say."""
    wrong = []
    for name in told.keys() & inferred.keys():
        own, found = (_plain(each) for each in (told[name], inferred[name]))
        if isinstance(found, list) and not isinstance(own, list):
            own = [own] * len(found)
        has_no_context = name == "cross_attention_dim" and found is None
        if own != found and name != "include_fc" and not has_no_context:
            wrong.append(f"{name} is {own}, the weights have {found}")
    if wrong:
        raise ConfigError(
            f"the arguments are not those of the weights: {'; '.join(sorted(wrong))}; correct them or leave "
            "them out"
        )


def _build(
    foreign: ForeignNetwork, weights: dict[str, Tensor], arguments: dict[str, Any], assumed: Mapping[str, Any]
) -> Any:
    try:
        return foreign.build(weights, arguments)
    except (ConfigError, CheckpointError) as error:
        fitting = {name: _plain(value) for name, value in arguments.items() if name not in assumed}
        raise CheckpointError(
            f"{error}. The weights and the arguments file tell {fitting}; taken for what they do not tell: "
            f"{dict(assumed)}; give the right ones in a file, --arguments"
        ) from error


def _require_channels(network: Any, space: VolumeSpace | None) -> None:
    n_channels = network.config.in_channels
    if space is not None and (n_channels, network.config.out_channels) != (space.n_channels,) * 2:
        raise ConfigError(
            f"the autoencoder takes {n_channels} channels and makes {network.config.out_channels}, the "
            f"intensity is that of {space.n_channels}: give a mapping for each channel by name"
        )


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
