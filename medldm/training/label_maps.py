"""First stage of label maps: transforms, one-hot networks, and validation by the overlap of structures.

Volumes travel as indices, one byte a voxel, and become one-hot where a network takes them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric, MetricsLambda
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose, EnsureTyped, MapTransform, SelectItemsd
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from medldm.conditioning import ConditioningConfig
from medldm.data.labels import LabelSchema
from medldm.data.overlap import count_overlap, dice_coefficients
from medldm.latent_diffusion.label_maps import decode_indices, encode_one_hot
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.training.precision import autocast
from medldm.training.previews import SampleWriter
from medldm.training.volumes import ConditionValuesd, IndexLabelsd, RandomPatchd
from medldm.transforms import CentreCropOrPadd, LoadVolumed, ResampleToSpacingd

COUNTS = "counts"


class LabelsAsImaged(MapTransform):
    """Put a case's label map in the place of its image.

    Args:
        n_classes: K + 1 for a one-hot image (K + 1, X, Y, Z) float32; None for indices (1, X, Y, Z) uint8.
    """

    def __init__(self, n_classes: int | None = None) -> None:
        super().__init__(("label",))
        self.n_classes = n_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Set "image" from "label"."""
        case = dict(data)
        indices = torch.as_tensor(case["label"])
        if self.n_classes is None:
            case["image"] = indices.to(torch.uint8)
        else:
            case["image"] = encode_one_hot(indices[None], self.n_classes)[0]
        return case


def label_map_transforms(
    space: VolumeSpace,
    *,
    schema: LabelSchema,
    patch_size: Sequence[int] | None = None,
    seed: int = 0,
) -> Compose:
    """Return the transforms from a case's label map to its indices in the space of the networks.

    Args:
        space: spacing and size to bring the maps to.
        schema: of the maps; their values become 0..K.
        patch_size: voxels of a random crop, taken last; None keeps the whole map.
        seed: of the crops.

    Returns:
        A transform of {"label": file, ...} to {"image": (1, X, Y, Z) uint8 indices, "label": the same
        int64}; the file under "image" is not read.
    """
    steps = [*_load_indices(space, schema), LabelsAsImaged(), SelectItemsd(("image", "label"))]
    if patch_size is not None:
        steps.append(RandomPatchd(("image", "label"), patch_size))
    return Compose(steps).set_random_state(seed)


def label_map_case_transforms(
    space: VolumeSpace, config: ConditioningConfig, *, schema: LabelSchema
) -> Compose:
    """Return the transforms from a case to what the second stage encodes, and its conditions.

    Args:
        space: spacing and size to bring the map to.
        config: the conditions of the model.
        schema: of the maps.

    Returns:
        A transform of a cohort's case to {"image": (K + 1, X, Y, Z) float32 one-hot, ...conditions}.
    """
    as_one_hot = LabelsAsImaged(schema.n_structures + 1)
    return Compose([*_load_indices(space, schema), as_one_hot, ConditionValuesd(config)])


def _load_indices(space: VolumeSpace, schema: LabelSchema) -> list[Any]:
    keys = ("label",)
    return [
        LoadVolumed(keys, label_keys=keys),
        ResampleToSpacingd(keys, space.spacing_mm, label_keys=keys),
        CentreCropOrPadd(keys, space.size, label_keys=keys),
        IndexLabelsd(keys, schema=schema),
        EnsureTyped(keys=keys, track_meta=False),
    ]


class OneHotInferer(SimpleInferer):
    """Call a network with the one-hot form of indices.

    Args:
        n_classes: K + 1.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `network` for indices (B, 1, X, Y, Z)."""
        return network(encode_one_hot(inputs, self.n_classes), *args, **kwargs)


class OverlapCounts(Metric):
    """Add up the counts of `count_overlap` over a validation, and over all processes."""

    @reinit__is_reduced
    def reset(self) -> None:
        """Begin a validation."""
        self._counts = torch.zeros((), dtype=torch.float64)

    @reinit__is_reduced
    def update(self, output: Tensor) -> None:
        """Add the counts of a batch."""
        self._counts = self._counts + output.detach().cpu()

    @sync_all_reduce("_counts")
    def compute(self) -> Tensor:
        """Return the counts (n_classes, 3)."""
        return self._counts


def overlap_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Return metrics of all validation voxels together, for an output with counts under "counts".

    Args:
        names: of the structures 1..K.

    Returns:
        "dice": the mean of the structures' Dice coefficients, of those that occur; "accuracy": share of the
        voxels, background included, that are right; "dice_<structure>"; and "volume_ratio_<structure>",
        decoded over true volume.
    """
    counts = OverlapCounts(output_transform=lambda output: output[COUNTS])
    metrics: dict[str, Metric] = {
        "dice": MetricsLambda(lambda c: float(dice_coefficients(c)[1:].nanmean()), counts),
        "accuracy": MetricsLambda(lambda c: float(c[:, 0].sum() / c[:, 2].sum()), counts),
    }
    for k, name in enumerate(names, start=1):
        key = name.replace(" ", "_")
        metrics[f"dice_{key}"] = MetricsLambda(lambda c, k=k: float(dice_coefficients(c)[k]), counts)
        metrics[f"volume_ratio_{key}"] = MetricsLambda(lambda c, k=k: float(c[k, 1] / c[k, 2]), counts)
    return metrics


class LabelMapEvaluator(SupervisedEvaluator):
    """Validate the averaged weights: overlap of each map with what its posterior mean decodes to.

    Args:
        device: where to evaluate.
        val_data_loader: batches with "image" (B, 1, X, Y, Z) indices 0..K.
        network: the averaged network, `average.module` of the trainer's average.
        schema: names the structures.
        precision: of autocast.
        val_handlers: attached in their order.
    """

    network: Any

    def __init__(
        self,
        device: torch.device,
        val_data_loader: Iterable[Any],
        *,
        network: nn.Module,
        schema: LabelSchema,
        precision: str = "float32",
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.precision = precision
        self.n_classes = schema.n_structures + 1
        metrics = overlap_metrics(schema.names)
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            inferer=OneHotInferer(self.n_classes),
            key_val_metric={"dice": metrics.pop("dice")},
            additional_metrics=metrics,
            val_handlers=val_handlers,
            decollate=False,
        )

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        indices = torch.as_tensor(batchdata["image"]).to(engine.state.device)
        self.network.eval()
        with torch.no_grad(), autocast(engine.state.device, self.precision):
            logits = engine.inferer(indices, lambda volume: self.network.reconstruct(volume))
        decoded = decode_indices(logits)
        return {
            Keys.IMAGE: to_grey(indices, self.n_classes),
            Keys.PRED: to_grey(decoded, self.n_classes),
            COUNTS: count_overlap(decoded, indices, self.n_classes),
        }


def to_grey(indices: Tensor, n_classes: int) -> Tensor:
    """Spread indices 0..K over [-1, 1], to look at."""
    return 2 * indices.float() / (n_classes - 1) - 1


class LabelMapSampleWriter(SampleWriter):
    """Write the middle slices of a new label map to TensorBoard after each validation.

    The map is drawn with the averaged weights, without conditions, always from the same noise.

    Args:
        log: where to write.
        evaluator: of the second stage.
        num_steps: of the sampling; few, for it is only a look.
    """

    def _write(self, evaluator: Any, trainer: Engine) -> None:
        model, config = evaluator.model, evaluator.config
        loader: Any = evaluator.data_loader
        logits = LatentDiffusionSampler(model, config, denoiser=evaluator.denoiser).sample(
            (1, *loader.dataset[0]["mean"].shape),
            size=None if model.space is None else model.space.size,
            num_steps=self.num_steps,
            seed=config.seed,
        )
        grey = to_grey(decode_indices(logits), model.autoencoder_config.out_channels)
        self._show(grey[0], "sample", trainer)
