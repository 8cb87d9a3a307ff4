"""Encode a cohort once: stage 2 trains on the posteriors of its latents, not on volumes.

Mean and standard deviation are kept, so that the noise of the latents is fresh in every epoch. A case's entry
is one safetensors file, named by a hash: neither identifiers nor paths reach the cache. A later run takes the
files of an earlier one that are still right, verified by the hash in their header. Several processes encode a
part of the cohort each.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from medldm.errors import MissingFileError
from medldm.files import write_atomically
from medldm.latent_diffusion.checkpoints import hash_weights
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.runtime.distributed import all_reduce_sum, barrier, is_main_process, items_of_rank, world_size
from medldm.training.augmentation import Augmentation
from medldm.training.augmented_cases import CopyTransforms
from medldm.training.identity import describe, hash_case
from medldm.training.latent_dataset import LatentDataset
from medldm.training.quarantine import BadCase, GuardedTransforms, Quarantine, find_fault
from medldm.training.volumes import ABSENT, SPATIAL_KEYS, UNKNOWN
from medldm.version import __version__

logger = logging.getLogger(__name__)

_HASH = "medldm_sha256"


def cache_latents(
    model: LatentDiffusionModel, data_loader: Iterable[dict[str, Any]], *, directory: str | Path | None = None
) -> LatentDataset:
    """Encode every case of a loader once.

    Args:
        model: its frozen autoencoder encodes, on the device it is on.
        data_loader: batches with "image" (B, C, X, Y, Z) in [-1, 1] and conditions; it must not shuffle.
        directory: keeps the latents in files; a volume that was encoded before is not encoded again. None
            keeps them in memory.

    Returns:
        The latents of the cases, in the loader's order.
    """
    folder = _open_folder(model, directory)
    entries: list[dict[str, Tensor] | Path | BadCase] = []
    made_from = []
    n_found = 0
    for batch in tqdm(data_loader, desc="encoding latents", leave=False, disable=None):
        for row in range(len(batch["image"])):
            own = {"image": torch.as_tensor(batch["image"])[row], **_conditions(model, batch, row)}
            made_from.append(hash_weights(own)[:32])
            path = None if folder is None else folder / f"{made_from[-1]}.safetensors"
            if path is not None and _is_valid(path):
                n_found += 1
                entries.append(path)
                continue
            entry = _encode(model, own)
            entries.append(entry if path is None else _write(path, entry))
    _report(len(entries), len(entries) - n_found, folder)
    return LatentDataset(entries, made_from=made_from)


def encode_cases(
    model: LatentDiffusionModel,
    cases: Sequence[dict[str, Any]],
    *,
    transform: Callable[[Any], Any],
    directory: str | Path | None = None,
    num_workers: int = 0,
    quarantine: Quarantine | None = None,
    augmentation: Augmentation | None = None,
) -> LatentDataset:
    """Load, transform and encode a cohort's cases once, and augmented copies of them.

    Args:
        model: its frozen autoencoder encodes, on the device it is on.
        cases: of the cohort, with the files of their volumes.
        transform: from a case to its volumes and conditions.
        directory: keeps the latents in files; a case whose content, conditions, transforms, autoencoder and
            space are those of an earlier run is not encoded again, and not read if the cohort was opened by
            `open_cohort`. None keeps them in memory.
        num_workers: processes that load.
        quarantine: if given, a case that cannot be loaded or whose latents are not finite is quarantined, and
            its entry is a `BadCase`.
        augmentation: makes the copies; None encodes the cases as they are alone. Those of an earlier run are
            taken if what is done to them is the same.

    Returns:
        The latents of the cases, in their order.

    Raises:
        ConfigError: if cases that go through this transform cannot be augmented.
        FileNotFoundError: if processes do not see each other's files.
        QuarantineError: if more cases are bad than the quarantine bears.
    """
    folder = _open_folder(model, directory)
    made_from = [hash_case(case, transform) for case in cases]
    steps = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    plain = describe(list(steps))
    kept: dict[str, Any] = {"made_from": made_from, "transform": plain}
    is_guarded = quarantine is not None
    maker = None
    if augmentation is not None:
        kept |= {"transform": [*plain, describe(augmentation)], "augmentation": augmentation}
        maker = CopyTransforms(transform, augmentation, is_guarded=is_guarded)
    if folder is None and not is_guarded and maker is None:
        return LatentDataset(cache_latents(model, _load(cases, transform, num_workers)).entries, **kept)
    names = [_name_copies(each, model, plain, maker) for each in made_from]
    jobs = _list_jobs(names, folder)
    if is_guarded and maker is None:
        transform = GuardedTransforms(transform if isinstance(transform, Compose) else Compose([transform]))
    items = [_item(cases[n], made_from[n], copies, maker) for n, copies in jobs.items()]
    bar = tqdm(
        _load(items, maker or transform, num_workers),
        desc="encoding latents",
        leave=False,
        disable=None if is_main_process() else True,
    )
    made: dict[str, dict[str, Tensor] | Path | BadCase] = {}
    for (number, copies), batch in zip(jobs.items(), bar, strict=True):
        for copy, volumes in zip(copies, batch if maker else [batch], strict=True):
            entry = _make_entry(model, volumes, is_guarded=is_guarded)
            name = names[number][copy]
            if isinstance(entry, BadCase):
                made[name] = entry
                if quarantine is not None:
                    quarantine.add(number, entry.reason, n_cases=len(cases))
                continue
            entry |= {} if maker is None else maker.told(made_from[number], copy)
            made[name] = entry if folder is None else _write(folder / name, entry)
    entries = [[made.get(name, Path(folder or "") / name) for name in found] for found in names]
    _await_others([entry for found in entries for entry in found if isinstance(entry, Path)], folder)
    n_made = all_reduce_sum(torch.tensor(sum(map(len, jobs.values()))))
    _report(sum(map(len, names)), int(n_made), folder, augmentation)
    first = [next((entry for entry in found if isinstance(entry, BadCase)), found[0]) for found in entries]
    return LatentDataset(first, copies=[found[1:] for found in entries], **kept)


def _list_jobs(names: Sequence[Sequence[str]], folder: Path | None) -> dict[int, list[int]]:
    """Return number of a case -> copies that this process is to encode.

    Equal cases share files; each file is written once, by the process whose part the case is in.
    """
    numbers = list({found[0]: number for number, found in enumerate(names)}.values())
    mine = numbers if folder is None else items_of_rank(numbers)
    missing = {
        number: [copy for copy, name in enumerate(names[number]) if not _is_kept(folder, name)]
        for number in mine
    }
    return {number: copies for number, copies in missing.items() if copies}


def _name_copies(
    made_from: str, model: LatentDiffusionModel, transform: Any, maker: CopyTransforms | None
) -> list[str]:
    """Return the names of the files of a case and of its augmented copies."""
    n_copies = 1 if maker is None else maker.augmentation.copies
    draws = [None if maker is None else maker.draw(made_from, copy) for copy in range(n_copies)]
    return [f"{_name_entry(made_from, model, transform, drawn)}.safetensors" for drawn in draws]


def _item(
    case: dict[str, Any], made_from: str, copies: Sequence[int], maker: CopyTransforms | None
) -> dict[str, Any]:
    """Return what the loader's transform takes: a case, with what is done to its copies if there are any."""
    if maker is None:
        return case
    return {"case": case, "draws": [maker.draw(made_from, copy) for copy in copies]}


def _await_others(paths: Sequence[Path], folder: Path | None) -> None:
    """Return when all processes have encoded their parts."""
    barrier()
    if unseen := [path for path in paths if not path.is_file()]:
        raise MissingFileError(
            f"{len(unseen)} of {len(paths)} cached latents, such as {unseen[0].name}, are not in {folder} as "
            f"this one of {world_size()} processes sees it: output_dir must lie on a file system that all "
            "share"
        )


def _load(
    cases: Sequence[dict[str, Any]], transform: Callable[[Any], Any], num_workers: int
) -> DataLoader[Any]:
    # A generator of its own: how many cases are left to encode must not change the training's draws.
    dataset = MonaiDataset(list(cases), transform)
    return DataLoader(
        dataset, batch_size=1, num_workers=num_workers, collate_fn=_collate_one, generator=torch.Generator()
    )


def _collate_one(cases: Sequence[Any]) -> Any:
    if isinstance(cases[0], list):
        return [_collate_one([copy]) for copy in cases[0]]
    return cases[0] if isinstance(cases[0], BadCase) else default_collate(list(cases))


def _make_entry(model: LatentDiffusionModel, batch: Any, *, is_guarded: bool) -> dict[str, Tensor] | BadCase:
    if isinstance(batch, BadCase):
        return batch
    own = {"image": torch.as_tensor(batch["image"])[0], **_conditions(model, batch, 0)}
    entry = _encode(model, own)
    fault = (find_fault(entry["mean"]) or find_fault(entry["std"])) if is_guarded else None
    return entry if fault is None else BadCase("gives latents that are not finite")


@torch.no_grad()
def _encode(model: LatentDiffusionModel, case: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the posterior of a case's volume (C, X, Y, Z), and its conditions."""
    conditions = {name: tensor for name, tensor in case.items() if name != "image"}
    mean, std = model.autoencoder.encode_moments(case["image"][None].to(model.latent_shift.device))
    return {"mean": mean[0].float().cpu(), "std": std[0].float().cpu(), **conditions}


def _write(path: Path, entry: dict[str, Tensor]) -> Path:
    own = {name: tensor.contiguous() for name, tensor in entry.items()}
    write_atomically(path, save(own, metadata={_HASH: hash_weights(own)}))
    return path


def _is_kept(folder: Path | None, name: str) -> bool:
    return folder is not None and _is_valid(folder / name)


def _is_valid(path: Path) -> bool:
    """Say whether a file is there, whole, and holds what was written."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            entry = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            stated = (file.metadata() or {}).get(_HASH)
    except SafetensorError as error:
        logger.warning("the cached latents %s are damaged and made again: %s", path.name, error)
        return False
    if stated != hash_weights(entry):
        logger.warning("the cached latents %s are damaged and made again", path.name)
        return False
    return True


def _open_folder(model: LatentDiffusionModel, directory: str | Path | None) -> Path | None:
    if directory is None:
        return None
    space = model.space.to_dict() if model.space is not None else None
    weights = hash_weights(model.autoencoder.state_dict())
    key = json.dumps([weights, describe(model.autoencoder_config), space], sort_keys=True)
    return Path(directory) / hashlib.sha256(key.encode()).hexdigest()[:16]


def _name_entry(made_from: str, model: LatentDiffusionModel, transform: Any, drawn: Any = None) -> str:
    """Return a hash of all that an entry depends on beside autoencoder and space.

    Neither paths nor identifiers can be read from it.
    """
    key = [made_from, model.denoiser.conditioning.config.to_dict(), transform, __version__]
    key += [] if drawn is None else [describe(drawn)]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _report(n_all: int, n_made: int, folder: Path | None, augmentation: Augmentation | None = None) -> None:
    logger.info(
        "latents of %d %s%s: %d encoded, %d as before",
        n_all,
        "cases" if augmentation is None else f"volumes, {augmentation.copies} for each case",
        "" if folder is None else " in the cache",
        n_made,
        n_all - n_made,
    )


def _conditions(model: LatentDiffusionModel, batch: Mapping[str, Any], row: int) -> dict[str, Tensor]:
    names = model.denoiser.conditioning.names
    keys = [
        key
        for name in names
        for key in (SPATIAL_KEYS.get(name, name), ABSENT + name, UNKNOWN + name)
        if key in batch
    ]
    found = {key: torch.as_tensor(batch[key])[row] for key in keys}
    label = found.get("label")
    if label is not None and int(label.max()) < 256:
        found["label"] = label.to(torch.uint8)
    return found
