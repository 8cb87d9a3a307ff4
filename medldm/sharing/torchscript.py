"""The decoder and the denoiser as TorchScript, for programs that have no medldm.

`monai.bundle ckpt_export` compiles a network's source, which these networks do not allow. Here they are
traced, with their weights as parameters of the file, in the type in which they are stored; the plain form of
every kernel is what is traced.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import torch
from monai.data.torchscript_utils import save_net_with_metadata
from torch import Tensor, nn

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.sharing.storage import draw_latents

TOLERANCE = 1e-4
"""Largest difference between a traced part and the model, as MONAI's model zoo allows it."""
PARTS = ("decoder", "denoiser")


class DecoderPart(nn.Module):
    """Decode standardised latents (B, C, x, y, z) to a volume in the networks' range."""

    def __init__(self, model: LatentDiffusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        """Return (B, channels, X, Y, Z)."""
        return self.model.decode(latents)


class DenoiserPart(nn.Module):
    """Predict from noisy latents, times and conditions, each of which a row may lack.

    `absent` (B, n) bool says which condition a row lacks, in the order of the model's conditions; where it
    is True the value is not looked at. A model without conditions takes neither.
    """

    def __init__(self, model: LatentDiffusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, timesteps: Tensor, *told: Tensor) -> Tensor:
        """Return the prediction (B, C, x, y, z)."""
        names = self.model.conditioning_config.names
        if not names:
            return self.model.denoiser(x_t, timesteps)
        absent, values = told[0], told[1:]
        return self.model.denoiser(
            x_t,
            timesteps,
            Conditions(dict(zip(names, values, strict=True))),
            drop={name: absent[:, place] for place, name in enumerate(names)},
        )


_PARTS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "decoder": (DecoderPart, ("denoiser.", "autoencoder.encoder.")),
    "denoiser": (DenoiserPart, ("autoencoder.",)),
}
"""Each part, and the weights that it does not need."""


class _Stored(nn.Module):
    """A part whose weights are parameters of this module, stored in their own types."""

    def __init__(self, part: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # In a tuple, the part is no submodule: its own weights are not traced.
        self._part = (part,)
        self._names = {name: name.replace(".", "__") for name in weights}
        for name, own in self._names.items():
            self.register_parameter(own, nn.Parameter(weights[name], requires_grad=False))

    def forward(self, *inputs: Tensor) -> Tensor:
        weights = {f"model.{name}": getattr(self, own).float() for name, own in self._names.items()}
        with _with_weights(self._part[0], weights):
            return self._part[0](*inputs)


@contextmanager
def _with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module compute with other tensors; `torch.func.functional_call` refuses to while it is traced."""
    places = []
    for name, tensor in weights.items():
        owner, _, leaf = name.rpartition(".")
        part = module.get_submodule(owner)
        store: Any = part._parameters if leaf in part._parameters else part._buffers
        places.append((store, leaf, store[leaf]))
        store[leaf] = tensor
    try:
        yield
    finally:
        for store, leaf, own in places:
            store[leaf] = own


def example_inputs(model: LatentDiffusionModel, part: str) -> tuple[Tensor, ...]:
    """Return inputs of a part for one volume of the model's size, at time 0, with nothing absent."""
    size, latents = require_volume_space(model.space).size, draw_latents(model)
    if part == "decoder":
        return (latents,)
    config = model.conditioning_config
    values = [_example_value(config, name, size) for name in config.names]
    absent = (torch.zeros(1, len(values), dtype=torch.bool),) if values else ()
    return (latents, torch.zeros(1), *absent, *values)


def describe_inputs(model: LatentDiffusionModel, part: str) -> dict[str, str]:
    """Return name to shape and type of a part's inputs, in their order."""
    names = ["latents"]
    if part == "denoiser":
        conditions = list(model.conditioning_config.names)
        names = ["x_t", "timesteps", *(["absent", *conditions] if conditions else [])]
    examples = example_inputs(model, part)
    return {
        name: f"{str(each.dtype).removeprefix('torch.')} {('B', *tuple(each.shape)[1:])}"
        for name, each in zip(names, examples, strict=True)
    }


@torch.no_grad()
def trace_part(
    model: LatentDiffusionModel, part: str, stored: Mapping[str, Tensor]
) -> torch.jit.ScriptModule:
    """Trace the decoder or the denoiser.

    Args:
        model: in evaluation mode, with the stored weights.
        part: "decoder" or "denoiser".
        stored: the weights in their types.

    Raises:
        RuntimeError: if the traced part differs from the model.
    """
    make, not_needed = _PARTS[part]
    own = {name: tensor for name, tensor in stored.items() if not name.startswith(not_needed)}
    inputs = example_inputs(model, part)
    whole = make(model)
    with warnings.catch_warnings():
        # Sizes are checked in Python, once; the checks do not change what is computed.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(_Stored(whole, own), inputs, check_trace=False)
    difference = float((traced(*inputs) - whole(*inputs)).abs().max())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the traced {part} differs from the model by {difference:g}")
    return traced


def save_part(
    traced: torch.jit.ScriptModule, path: Path, *, metadata: dict[str, Any], configs: Mapping[str, bytes]
) -> None:
    """Write a traced part with the bundle's metadata and configs embedded, as MONAI's exports have them."""
    save_net_with_metadata(
        traced,
        str(path),
        include_config_vals=False,
        append_timestamp=False,
        meta_values=metadata,
        more_extra_files=dict(configs),
    )
    _strip_sources(path)


def _strip_sources(path: Path) -> None:
    """Take the names of source files out of a TorchScript archive: they tell the folders of who made it."""
    with ZipFile(path) as archive:
        kept = [(each, archive.read(each)) for each in archive.namelist() if not each.endswith(".debug_pkl")]
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, content in kept:
            archive.writestr(ZipInfo(name), content)


def _example_value(config: ConditioningConfig, name: str, size: tuple[int, ...]) -> Tensor:
    if name == "label_map":
        return torch.zeros(1, 1, *size, dtype=torch.int64)
    if name == "image":
        return torch.zeros(1, 1, *size)
    if name == "text":
        return torch.zeros(1, config.text_tokens, config.text_embed_dim)
    if name in config.scalars:
        return torch.full((1,), float(config.scalars[name][0]))
    return torch.zeros(1, dtype=torch.int64)
