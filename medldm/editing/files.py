"""Edit an image file: a changed label map in, the image changed only there out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medldm.conditioning import Conditions
from medldm.configs import read_switch
from medldm.editing.editor import EditConfig, RegeneratedRegion, regenerate_region
from medldm.editing.regions import blend_region, dilate_region, feather_weights
from medldm.editing.request import EditRequest
from medldm.editing.stored_images import read_stored_image, require_same_grid
from medldm.errors import CheckpointError, ConfigError, OutputExistsError
from medldm.files import hash_array, require_writable, write_atomically
from medldm.generation.files import LabelGrid
from medldm.generation.request_notes import note_missing
from medldm.generation.requests import RequestPreparer
from medldm.label_maps.changes import change_labels, count_changes
from medldm.latent_diffusion.checkpoints import describe_versions, hash_weights
from medldm.latent_diffusion.lineage import describe_lineage
from medldm.latent_diffusion.volume_space import require_one_channel
from medldm.runtime.distributed import DistributedError, world_size
from medldm.sampling.config import SamplingConfig
from medldm.sampling.sampler import LatentDiffusionSampler, describe_texture
from medldm.transforms import LoadVolume, ResampleToSpacing, write_nifti
from medldm.transforms.load import share_grid
from medldm.transforms.orientation import to_ras_affine, turn
from medldm.transforms.raw_volume import spacing_of

logger = logging.getLogger(__name__)


class Editor:
    """Edit one image. All that can be wrong with its files is found here, before anything is drawn.

    Args:
        request: what to edit.
        sampler: of a model that is conditioned on label maps.
        preparer: makes the model's conditions.
        output_dir: receives images/, labels/, sidecars/ and labels.json.
        config: how the region is drawn again.
        sampling: how volumes are drawn.
        conditions: values of the model's other conditions by name.
        overwrite: replace files that exist.

    Raises:
        ValueError: if the model has no label maps, files do not lie on one grid, a structure or a value is
            unknown, or nothing changes.
        FileExistsError: if files would be replaced.
    """

    def __init__(
        self,
        request: EditRequest,
        sampler: LatentDiffusionSampler,
        *,
        preparer: RequestPreparer,
        output_dir: str | Path,
        config: EditConfig | None = None,
        sampling: SamplingConfig | None = None,
        conditions: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.request, self.sampler = request, sampler
        self.config, self.sampling = config or EditConfig(), sampling or SamplingConfig()
        self.config.check_sampling(self.sampling)
        self.output_dir = Path(output_dir)
        if preparer.schema is None or "label_map" not in preparer.config.conditioning_type:
            raise CheckpointError(
                "the model was trained without label maps: editing needs one that knows them"
            )
        self.space, self.schema = preparer.space, preparer.schema
        self.intensity = require_one_channel(self.space, what="editing")
        self.change = request.change(self.schema)
        overwrite = read_switch(overwrite, name="overwrite")
        require_writable(self.output_dir, parts=("images", "labels", "sidecars"))
        if self._file("images", ".nii.gz").exists() and not overwrite:
            raise OutputExistsError(
                f"an image {request.name!r} exists in {self.output_dir}: choose another name or "
                "output_dir, or set overwrite to true"
            )
        self._read(preparer, {"index": 0, "label": request.label, "conditions": dict(conditions or {})})

    def _read(self, preparer: RequestPreparer, asked: Mapping[str, Any]) -> None:
        """Read image and label maps and find the region."""
        preparer.check(asked)
        self.notes = [note.text for note in note_missing([asked], preparer.config.names)]
        for note in self.notes:
            logger.warning("%s", note)
        self.image = read_stored_image(self.request.image)
        current = LoadVolume(is_label=True)(self.request.label)
        require_same_grid(self.image.loaded, current, names=("the image", "its label map"))
        share_grid(current, self.image.loaded)
        prepared = preparer.prepare(asked)
        if not isinstance(prepared.grid, LabelGrid) or prepared.labels is None:
            raise TypeError("the preparer gave no label map: it must be one for the sampler's model")
        self.grid, self.described = prepared.grid, prepared.description
        self.spacing_mm = tuple(spacing_of(self.image.affine).tolist())
        self.before = prepared.labels.astype(np.int64)
        self.after = self._new_labels(preparer)
        changed = self.before != self.after
        if not changed.any():
            raise ConfigError("the new label map is the same as the present one: there is nothing to edit")
        self.region = dilate_region(changed, margin_mm=self.config.margin_mm, spacing_mm=self.spacing_mm)
        self.conditions_before = prepared.conditions
        self.conditions = self._with_labels(prepared.conditions)

    def run(self) -> Path:
        """Draw the region and write the files; returns the image's."""
        volume, limits = self._network_volume()
        region = self.grid.to_network_grid(self._as_loaded(self.region.astype(np.float32)), fill=0.0) > 1e-6
        redrawn = regenerate_region(
            self.sampler,
            volume,
            region[None],
            conditions=self.conditions,
            conditions_before=self.conditions_before,
            config=self.config,
            sampling=self.sampling,
        )
        stored, n_clipped = self.image.replace(self.region, self._compose(redrawn, limits))
        if n_clipped:
            logger.warning(
                "%d edited voxels exceed what %s can hold and are clipped", n_clipped, stored.dtype
            )
        return self._write(stored, n_clipped)

    def _new_labels(self, preparer: RequestPreparer) -> np.ndarray:
        if self.change is not None:
            return change_labels(self.before, self.change, spacing_mm=self.spacing_mm)
        file = str(self.request.new_label)
        require_same_grid(
            self.image.loaded, LoadVolume(is_label=True)(file), names=("the image", "the new label map")
        )
        grid = LabelGrid(file, self.space, multiple=preparer.multiple, table=preparer.label_table)
        labels = grid.file_labels().astype(np.int64)
        self.schema.check(np.unique(labels), file)
        # What the present map does not cover was taken out of it: where it is still there, nothing changed.
        present = self.grid.file_labels()
        return np.where((present != self.before) & (labels == present), self.before, labels)

    def _with_labels(self, conditions: Conditions | None) -> Conditions:
        labels = self.grid.to_network_grid(
            self._as_loaded(self.after.astype(np.float32)), is_label=True, fill=0.0
        )
        indices = self.schema.index_map(labels)[None]
        given = conditions or Conditions({})
        # What the new map shows is known, also where the present one does not cover it.
        shown = torch.bincount(indices.flatten(), minlength=self.schema.n_structures + 1)[1:] > 0
        unknown = {name: mask & ~shown for name, mask in given.unknown.items()}
        return replace(given, values={**given.values, "label_map": indices}, unknown=unknown)

    def _as_loaded(self, array: np.ndarray) -> MetaTensor:
        """Turn an array (I, J, K) in the file's axes as loading does: (1, X, Y, Z) RAS+."""
        template = self.grid.volume
        _, axes, flips = to_ras_affine(np.asarray(template.meta["original_affine"]), array.shape)
        turned = np.ascontiguousarray(turn(array, axes, flips))
        return MetaTensor(torch.from_numpy(turned)[None]).copy_meta_from(template)

    def _network_volume(self) -> tuple[torch.Tensor, tuple[float, float]]:
        """Return the image (1, 1, X, Y, Z) in [-1, 1] as in training, and its intensities at -1 and 1."""
        intensity = self.intensity
        resampled = ResampleToSpacing(self.space.spacing_mm)(self.image.loaded)
        limits = intensity.case_limits(resampled.as_tensor())
        volume = self.grid.to_network_grid(self.image.loaded, fill=limits[0])
        return torch.as_tensor(intensity.to_model(volume, limits=limits))[None], limits

    def _compose(self, redrawn: RegeneratedRegion, limits: tuple[float, float]) -> np.ndarray:
        def in_file(part: torch.Tensor) -> np.ndarray:
            return np.asarray(self.intensity.from_model(self.grid.to_file_grid(part[0]), limits=limits))

        weights = feather_weights(self.region, feather_mm=self.config.feather_mm, spacing_mm=self.spacing_mm)
        return blend_region(
            self.image.intensities,
            in_file(redrawn.decoded),
            in_file(redrawn.reconstruction),
            region=self.region,
            weights=weights,
            textured=None if redrawn.textured is None else in_file(redrawn.textured),
        )

    def _file(self, folder: str, suffix: str) -> Path:
        return self.output_dir / folder / f"{self.request.name}{suffix}"

    def _write(self, stored: np.ndarray, n_clipped: int) -> Path:
        """Write the image last: where it is, the rest is."""
        kind = np.min_scalar_type(int(self.after.max()))
        write_nifti(self._file("labels", ".nii.gz"), self.after, self.image.affine, dtype=kind)
        sidecar = json.dumps(self._describe(n_clipped), indent=2, sort_keys=True)
        write_atomically(self._file("sidecars", ".json"), sidecar.encode())
        schema = json.dumps(self.schema.to_dict(), indent=2)
        write_atomically(self.output_dir / "labels.json", schema.encode())
        return self.image.write(self._file("images", ".nii.gz"), stored)

    def _describe(self, n_clipped: int) -> dict[str, Any]:
        names = {0: "background", **self.schema.structures}
        return {
            "synthetic": True,
            "edited": True,
            "edit": self.config.to_dict(),
            "sampling": self.sampling.to_dict(),
            "label_change": self.change.to_dict() if self.change is not None else "a new label map",
            "voxels_won": {
                names[value]: count for value, count in count_changes(self.before, self.after).items()
            },
            "region_voxels": int(self.region.sum()),
            "clipped_voxels": n_clipped,
            "image_sha256": hash_array(self.image.stored),
            "new_label_map_sha256": hash_array(self.after),
            "conditions": self.described,
            "weights_sha256": hash_weights(self.sampler.model.state_dict()),
            "versions": describe_versions(),
            **describe_texture(self.sampler.model, self.sampling),
            **describe_lineage(self.sampler.model.lineage),
        } | ({"notes": self.notes} if self.notes else {})


def make_editor(
    sampler: LatentDiffusionSampler,
    *,
    request: Mapping[str, Any],
    config: Mapping[str, Any],
    sampling: Mapping[str, Any],
    preparer: RequestPreparer,
    output_dir: str | Path,
    conditions: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Editor:
    """Build an `Editor` from the plain values of a bundle; the mappings are fields of the configurations.

    Raises:
        DistributedError: where torchrun started several processes.
    """
    if world_size() > 1:
        raise DistributedError(
            f"this workflow runs in one process, not in {world_size()}: leave out torchrun"
        )
    return Editor(
        EditRequest.from_dict(request),
        sampler,
        preparer=preparer,
        output_dir=output_dir,
        config=EditConfig.from_dict(config),
        sampling=SamplingConfig.from_dict(sampling),
        conditions=conditions,
        overwrite=overwrite,
    )
