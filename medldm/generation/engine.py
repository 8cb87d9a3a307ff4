"""From label maps, or from noise alone, to a folder of labelled synthetic volumes.

The folder that is written is itself a cohort: images/, labels/, labels.json, and sidecars/ with one JSON file
for each volume that says how to make it again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from medldm.conditioning import Conditions, open_text_encoder
from medldm.configs import read_switch
from medldm.files import hash_file
from medldm.generation.files import SyntheticWriter
from medldm.generation.rejection import QualityGate, RejectionResult, sample_with_rejection
from medldm.generation.request_notes import (
    RequestNote,
    note_geometry,
    note_missing,
    require_label_maps,
)
from medldm.generation.requests import (
    GenerationDataset,
    PreparedRequest,
    RequestPreparer,
    list_label_maps,
    make_preparer,
)
from medldm.latent_diffusion.checkpoints import describe_versions, hash_weights
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.lineage import describe_lineage
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.networks.downsampling import latent_size
from medldm.runtime.devices import choose_device
from medldm.runtime.distributed import barrier, is_main_process, items_of_rank, require_same, world_size
from medldm.runtime.output_lock import locked_output
from medldm.sampling.config import SamplingConfig
from medldm.sampling.sampler import LatentDiffusionSampler, describe_texture
from medldm.transforms.body_mask import set_outside

logger = logging.getLogger(__name__)


class LatentDiffusionInferer(Inferer):
    """Draw volumes behind MONAI's inferer interface.

    Args:
        config: noise path and prediction type of the training.
        sampling: how volumes are drawn.
    """

    def __init__(self, config: LatentDiffusionConfig, sampling: SamplingConfig) -> None:
        self.config = config
        self.sampling = sampling

    def __call__(  # type: ignore[override]
        self,
        inputs: Sequence[int],
        network: LatentDiffusionModel,
        *,
        conditions: Conditions | None,
        index: int,
        seed: int | None = None,
    ) -> Tensor:
        """Draw one volume.

        Args:
            inputs: (X, Y, Z) voxels of the volume.
            network: the model.
            conditions: of this volume, or None.
            index: of the volume in its seed.
            seed: in the place of the sampling's.

        Returns:
            (1, C, X, Y, Z): what the autoencoder decodes; an image in [-1, 1] up to overshoot.
        """
        autoencoder = network.autoencoder
        shape = (1, autoencoder.latent_channels, *latent_size(inputs, autoencoder.downsampling))
        sampler = LatentDiffusionSampler(network, self.config)
        settings = self.sampling.to_dict() | ({} if seed is None else {"seed": seed})
        return sampler.sample(shape, conditions=conditions, indices=[index], size=tuple(inputs), **settings)


class GenerationEvaluator(SupervisedEvaluator):
    """Generate and write the volumes of a `GenerationDataset`, on MONAI's engine.

    Several processes make a part of the volumes each, to the bit the same as one process makes.

    Args:
        device: where to generate.
        dataset: what to generate.
        network: the model.
        inferer: draws a volume.
        writer: writes it.
        preparer: makes the tensors of a request; None takes the model's, without text and remapping.
        gate: draws volumes again that do not pass; None writes each as it comes.
        unconditional: make volumes without label maps with a model of label maps, which is refused otherwise.

    Attributes:
        notes: what is used more than once, what is left out; also in the log and in each sidecar.

    Raises:
        FileExistsError: if volumes exist that would be replaced, before anything is generated.
        ValueError: if a request holds what the model does not know, likewise.
    """

    def __init__(
        self,
        device: torch.device,
        dataset: GenerationDataset,
        *,
        network: LatentDiffusionModel,
        inferer: LatentDiffusionInferer,
        writer: SyntheticWriter,
        preparer: RequestPreparer | None = None,
        gate: QualityGate | None = None,
        unconditional: bool = False,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.model = network
        self.draw = inferer
        self.preparer = preparer or RequestPreparer(network)
        self.writer = writer.for_channels(self.preparer.space.channels)
        self.gate = gate
        self.refused: list[int] = []
        self._has_run = False
        self.weights_sha256 = hash_weights(network.state_dict())
        requests = [dataset[position] for position in range(len(dataset))]
        self.indices = [request["index"] for request in requests]
        self.writer.refuse_existing(self.indices)
        self._require_same(requests)
        self.notes = self._note(dataset, requests, unconditional=unconditional)
        for request in requests:
            self.preparer.check(request)
        self.notes += self._log_notes(
            note_geometry(list(self.preparer.geometries.values()), self.preparer.space)
        )
        super().__init__(
            device=device,
            val_data_loader=DataLoader(Subset(dataset, items_of_rank(range(len(dataset)))), batch_size=None),
            network=network.to(device).eval(),
            inferer=inferer,
            val_handlers=val_handlers,
            decollate=False,
        )

    def _note(
        self, dataset: GenerationDataset, requests: Sequence[Mapping[str, Any]], *, unconditional: bool
    ) -> tuple[RequestNote, ...]:
        """Refuse what changes the meaning of the output, and say what it is made from."""
        names = self.preparer.config.names
        is_wanted = read_switch(unconditional, name="unconditional")
        notes = [
            *require_label_maps(requests, names, unconditional=is_wanted),
            *dataset.notes(),
            *note_missing(requests, names),
        ]
        return self._log_notes(notes)

    def _require_same(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Compare what is made among processes."""
        if world_size() == 1:
            return
        files = {str(request.get("label")) for request in requests}
        hashes = {file: hash_file(file) for file in files if Path(file).is_file()}
        sampling = getattr(self.draw, "sampling", None)
        require_same(
            {
                "the weights": self.weights_sha256,
                "the requests": [
                    {**request, "label": hashes.get(str(request.get("label")))} for request in requests
                ],
                "the settings of the sampling": None if sampling is None else sampling.to_dict(),
            }
        )

    @staticmethod
    def _log_notes(notes: Sequence[RequestNote]) -> tuple[RequestNote, ...]:
        if is_main_process():
            for note in notes:
                logger.log(logging.WARNING if note.is_warning else logging.INFO, "%s", note.text)
        return tuple(notes)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Generate; the volumes of all processes are there on return.

        Raises:
            FolderInUseError: where another run writes into the output folder.
            OutputExistsError: if volumes that would be replaced have come since they were looked for.
        """
        with locked_output(self.writer.output_dir, work="generation"):
            if not self._has_run:
                self.writer.refuse_existing(self.indices)
            self._has_run = True
            # What one process writes must not stand in the way of another that is still checking.
            barrier()
            if self.state.epoch_length > 0:
                super().run(global_epoch)
            barrier()

    @property
    def written(self) -> list[Path]:
        """The files of the volumes that `run` has written, by index, and of each by channel."""
        kept = [index for index in self.indices if index not in self.refused]
        return [file for index in kept for file in self.writer.files_of(index) if file.is_file()]

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        request = self.preparer.prepare(batchdata)
        if self.gate is not None:
            return {Keys.PRED: self._draw_through(self.gate, request)}
        volume = self.draw(request.size, self.model, conditions=request.conditions, index=request.index)[0]
        self._write(request, volume)
        return {Keys.PRED: volume}

    def _draw_through(self, gate: QualityGate, request: PreparedRequest) -> Tensor:
        """Draw a volume, again where it does not pass, and write it unless it is refused."""
        drawn = sample_with_rejection(
            lambda seed: self.draw(
                request.size, self.model, conditions=request.conditions, index=request.index, seed=seed
            )[0],
            lambda volume: gate.check(*_seen_by_gate(request, volume)),
            seed=self.draw.sampling.seed,
            index=request.index,
            max_redraws=gate.max_redraws,
        )
        if drawn.passed or not gate.refuse:
            self._write(request, drawn.volume, drawn)
        else:
            self.refused.append(request.index)
            logger.warning(
                "volume %d failed all %d tries: it is not written", request.index, len(drawn.tries)
            )
        return drawn.volume

    def _write(self, request: PreparedRequest, volume: Tensor, result: RejectionResult | None = None) -> Path:
        space, grid = self.preparer.space, request.grid
        affine = space.affine(tuple(volume.shape[1:])) if grid is None else grid.affine
        channels = [
            channel[0].cpu().numpy() if grid is None else grid.to_file_grid(channel)
            for channel in volume.split(1)
        ]
        mapped = zip(space.intensities, channels, strict=True)
        images = [np.asarray(mapping.from_model(channel)) for mapping, channel in mapped]
        if space.outside_value is not None:
            images = [set_outside(image, affine, value=space.outside_value) for image in images]
        return self.writer.write(
            request.index,
            images,
            affine=affine,
            sidecar=self._describe(request) | ({} if result is None else self._describe_gate(result)),
            labels=request.labels,
            schema=self.preparer.schema if request.labels is not None else None,
        )

    def _describe(self, request: PreparedRequest) -> dict[str, Any]:
        """Say for the sidecar how the volume is made again."""
        channels = self.preparer.space.channels
        return (
            ({"channels": list(channels)} if channels else {})
            | {
                "synthetic": True,
                "index": request.index,
                "sampling": self.draw.sampling.to_dict(),
                "conditions": request.description,
                "weights_sha256": self.weights_sha256,
                "versions": describe_versions(),
            }
            | describe_texture(self.model, self.draw.sampling)
            | describe_lineage(self.model.lineage)
            | self._describe_intensities()
            | ({"notes": [note.text for note in self.notes]} if self.notes else {})
        )

    def _describe_intensities(self) -> dict[str, Any]:
        """Say what is known of the intensities beyond their mapping."""
        space = self.preparer.space
        note = {"intensity_note": space.intensity_note} if space.intensity_note else {}
        return note | ({} if space.outside_value is None else {"outside_value": space.outside_value})

    def _describe_gate(self, result: RejectionResult) -> dict[str, Any]:
        """Name the seed that makes the volume again without a gate, and every try."""
        sampling = self.draw.sampling.to_dict()
        gate = {"seed": sampling["seed"], "passed": result.passed, "tries": list(result.tries)}
        return {"sampling": sampling | {"seed": result.seed}, "quality_gate": gate}


def _seen_by_gate(
    request: PreparedRequest, volume: Tensor
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None]:
    """Return image and labels without what was padded around the file's volume, see `VolumeCheck`."""
    grid, labels = request.grid, None
    if request.conditions is not None and "label_map" in request.conditions.values:
        labels = request.conditions.values["label_map"][0]
    image, maps = (
        None if each is None else (each if grid is None else grid.cut_padding(each)).cpu().numpy()
        for each in (volume, labels)
    )
    channels = np.asarray(image, dtype=np.float32)
    return channels[0] if len(channels) == 1 else channels, None if maps is None else maps[0].astype(np.int64)


def generate(checkpoint: str | Path, output_dir: str | Path, **options: Any) -> list[Path]:
    """Make synthetic volumes with a trained model; what `inference.yaml` does, without a bundle.

    Args:
        checkpoint: of the second stage.
        output_dir: receives images/, labels/ and sidecars/.
        options: further arguments of `set_up_generation`.

    Returns:
        The images' files.
    """
    evaluator = set_up_generation(checkpoint, output_dir, **options)
    evaluator.run()
    return evaluator.written


def set_up_generation(
    checkpoint: str | Path,
    output_dir: str | Path,
    *,
    label_dir: str | Path | None = None,
    labels: Sequence[str] | None = None,
    unconditional: bool = False,
    num_samples: int | None = None,
    first_index: int = 0,
    conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path | None = None,
    label_table: str | Path | None = None,
    structures_in_map: Sequence[str] | str | None = None,
    text_encoder: str | None = None,
    sampling: SamplingConfig | None = None,
    overwrite: bool = False,
    channel_endings: str = "name",
    device: str = "auto",
) -> GenerationEvaluator:
    """Check everything that a generation needs, so that what remains is to `run` it.

    Args:
        checkpoint: of the second stage.
        output_dir: receives images/, labels/ and sidecars/.
        label_dir: folder of label maps to condition on, for a model with that condition.
        labels: the files themselves, in the place of a folder.
        unconditional: make volumes without label maps with a model of label maps; the output is unlabelled.
        num_samples: volumes to make; None for one of each label map.
        first_index: index of the first volume of the seed.
        conditions: values of the model's other conditions, see `GenerationDataset`.
        label_table: file or preset that says how values of the label maps become the model's, see
            `read_label_table`.
        structures_in_map: names of the structures that the label maps cover, see `RequestPreparer`.
        text_encoder: folder of the encoder of the training, for the condition "text"; None for the default.
        sampling: how volumes are drawn.
        overwrite: replace volumes that exist.
        channel_endings: of the files of a model of several channels, "name" or "number", see
            `SyntheticWriter`.
        device: "auto", "cpu", "cuda", ...

    Returns:
        The engine, whose `notes` say what the volumes are made from.

    Raises:
        ConfigError: where a model of label maps is given none, or a model without is given some.
    """
    model, config, _ = load_latent_diffusion(checkpoint)
    conditioning = model.conditioning_config
    encoder = None
    if "text" in conditioning.conditioning_type:
        encoder = open_text_encoder(text_encoder, identity=conditioning.text_encoder)
    dataset = GenerationDataset(
        num_samples=num_samples,
        first_index=first_index,
        labels=list_label_maps(label_dir) if label_dir is not None else labels,
        conditions=conditions,
    )
    return GenerationEvaluator(
        choose_device(device),
        dataset,
        network=model,
        inferer=LatentDiffusionInferer(config, sampling or SamplingConfig()),
        writer=SyntheticWriter(output_dir, overwrite=overwrite, channel_endings=channel_endings),
        preparer=make_preparer(
            model, text_encoder=encoder, label_table=label_table, structures_in_map=structures_in_map
        ),
        unconditional=unconditional,
    )
