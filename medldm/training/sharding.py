"""Each process keeps a part of the denoiser: of its weights, gradients, optimiser state and average.

A sharded tensor is a DTensor: its first axis is dealt out to the processes. A block's weights are gathered
when it runs and let go afterwards. The average never runs sharded: `whole_weights` lends it all its weights.
States and checkpoints hold whole tensors, so that any number of processes goes on from them.
What is gathered here goes through the blocking collectives of torch.distributed: a process once died of a
double free while it gathered a state with DTensor's own, `full_tensor`, through gloo.

Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", Section 3;
Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", Section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from medldm.errors import ConfigError
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import ConditionalDenoiser
from medldm.networks.kernels.cached_weights import clear_cached_weights
from medldm.runtime.distributed import all_reduce_sum, data_parallel, is_main_process, world_size

SHARDINGS = ("ddp", "fsdp")


def check_sharding(sharding: str, config: LatentDiffusionConfig) -> None:
    """Refuse what cannot be shared, before a volume is read.

    Args:
        sharding: as of `share_denoiser`.
        config: of the training.

    Raises:
        ConfigError: if `sharding` is unknown, or cannot deal the weights of adapters out.
    """
    if sharding not in SHARDINGS:
        raise ConfigError(f"sharding is {sharding!r}: choose from {list(SHARDINGS)}")
    if config.adapter_rank is not None and sharding != "ddp":
        raise ConfigError(
            f"adapter_rank is {config.adapter_rank} and sharding {sharding!r}: adapters are small, "
            "set sharding to ddp"
        )


def share_denoiser(
    denoiser: ConditionalDenoiser,
    *,
    sharding: str,
    average: AveragedModel,
    device: torch.device,
) -> nn.Module:
    """Return what to call in the place of the denoiser, so that several processes train it together.

    Args:
        denoiser: to train.
        sharding: "ddp" keeps all of it in every process; "fsdp" a part, and then the weights of denoiser and
            average are replaced: make the optimiser afterwards. One process keeps all in both cases.
        average: of the denoiser's weights.
        device: "cpu" or the GPU of this process.

    Raises:
        ConfigError: if `sharding` is unknown.
    """
    if sharding not in SHARDINGS:
        raise ConfigError(f"sharding is {sharding!r}: choose from {list(SHARDINGS)}")
    if sharding == "ddp" or world_size() == 1:
        return data_parallel(denoiser)
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in denoiser.unet.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(denoiser, mesh=mesh)
    for (owner, name, weight), like in zip(_places(average.module), denoiser.parameters(), strict=True):
        setattr(owner, name, nn.Parameter(shard_state(weight, like), requires_grad=weight.requires_grad))
    return denoiser


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Lend a module whose weights are sharded all of them; every process takes part. Else do nothing.

    Args:
        module: one that FSDP does not run, such as an average; its weights must not change meanwhile.
    """
    shards = [place for place in _places(module) if isinstance(place[2], DTensor)]
    try:
        for owner, name, weight in shards:
            setattr(owner, name, nn.Parameter(whole(weight), requires_grad=False))
        yield
    finally:
        for owner, name, weight in shards:
            setattr(owner, name, weight)
        if shards:
            clear_cached_weights(module)


def whole(values: Tensor) -> Tensor:
    """Return a sharded tensor whole, without gradient, every process taking part; others as they are."""
    if not isinstance(values, DTensor):
        return values
    part = _padded_part(values)
    parts = [torch.empty_like(part) for _ in range(world_size())]
    dist.all_gather(parts, part)
    return _join(parts, len(values))


def clip_gradients(weights: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down to a largest norm, and return the norm that they had, a scalar.

    Args:
        weights: all of them sharded or none; those without a gradient do not count.
        largest: norm of the gradients of all weights together.
    """
    weights = list(weights)
    own = [grad.to_local().detach() for weight in weights if isinstance(grad := weight.grad, DTensor)]
    if not own:
        return nn.utils.clip_grad_norm_(weights, largest)
    # In double precision, for the square of a norm overflows before the norm does.
    square = nn.utils.get_total_norm(own).double().square()
    norm = all_reduce_sum(square).sqrt().to(own[0].dtype)
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for grad in own:
        grad.mul_(scale)
    return norm


def gather_state(state: Any) -> Any:
    """Return nested state with its sharded tensors whole, on the CPU of the first process.

    Every process takes part; those that are not the first get None in the place of a sharded tensor, and
    never hold one whole.

    Args:
        state: nested mappings, lists and tuples.
    """
    if isinstance(state, DTensor):
        return _gather_to_first(state)
    if isinstance(state, Mapping):
        return {name: gather_state(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gather_state(value) for value in state)
    return state


def shard_state(state: Any, like: Any) -> Any:
    """Return nested state with its tensors sharded as those in the same places of other state.

    Args:
        state: nested mappings of whole tensors, the same in every process.
        like: where it has no sharded tensor, `state` stays as it is.
    """
    if isinstance(state, Tensor) and isinstance(like, DTensor):
        return _shard(state, like)
    if isinstance(state, Mapping) and isinstance(like, Mapping):
        return {name: shard_state(value, like.get(name)) for name, value in state.items()}
    return state


def shard_optimiser_state(state: Mapping[str, Any], weights: Sequence[nn.Parameter]) -> dict[str, Any]:
    """Return an optimiser's state with what it keeps of each weight's shape sharded as the weight is.

    Args:
        state: of `Optimizer.state_dict`, its tensors whole.
        weights: of the optimiser, in its order.
    """

    def shard(values: Mapping[str, Any], weight: nn.Parameter) -> dict[str, Any]:
        return {
            name: shard_state(value, weight if getattr(value, "shape", None) == weight.shape else None)
            for name, value in values.items()
        }

    kept = {number: shard(values, weights[number]) for number, values in state["state"].items()}
    return {**state, "state": kept}


def _gather_to_first(values: DTensor) -> Tensor | None:
    """Return a sharded tensor whole on the CPU of the first process, and None in the others."""
    part = _padded_part(values)
    parts = [torch.empty_like(part) for _ in range(world_size())] if is_main_process() else None
    dist.gather(part, parts, dst=0)
    return None if parts is None else _join([each.cpu() for each in parts], len(values))


def _padded_part(values: DTensor) -> Tensor:
    """Return the own part of a sharded tensor, with zeros after it up to the length of the first part."""
    if tuple(values.placements) != (Shard(0),):
        raise ValueError(f"a tensor is dealt out as {values.placements}: only along its first axis it can be")
    own = values.to_local().detach()
    part = own.new_zeros(-(-len(values) // world_size()), *own.shape[1:])
    part[: len(own)] = own
    return part


def _join(parts: Sequence[Tensor], length: int) -> Tensor:
    """Return padded parts of equal length as one tensor, without what is past its length."""
    return torch.cat([part[: max(0, length - n * len(part))] for n, part in enumerate(parts)])


def _shard(values: Tensor, like: DTensor) -> Tensor:
    """Return the own part of a tensor that every process has, dealt out as `like` is."""
    values = values.detach().to(like.device)
    # Where the part is a view, all values would stay in memory behind it: it is copied.
    part = distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)
    return torch.clone(part)


def _places(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Return each weight with the submodule that has it and its name there, in the order of `parameters`."""
    return [
        (owner, name, weight)
        for owner in module.modules()
        for name, weight in owner.named_parameters(recurse=False)
    ]
