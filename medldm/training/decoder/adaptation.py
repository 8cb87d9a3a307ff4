"""Adapt the decoder of a model that has just been trained, in its checkpoint.

The checkpoint keeps all it says of the training and of the first stage, whose hash it goes on to name. What
it held before is the denoiser of the same file with the decoder of the first stage's checkpoint:
`load_first_stage` of `autoencoder_path` brings it back.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data import Dataset as MonaiDataset
from torch import Tensor

from medldm.latent_diffusion.checkpoints import hash_weights, load_checkpoint, read_card, save_checkpoint
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.networks import VAE, VQVAE
from medldm.networks.weights import load_weights
from medldm.runtime.distributed import barrier, is_main_process
from medldm.training.assembly import Training
from medldm.training.configs import RunConfig
from medldm.training.decoder.assembly import build_decoder_training
from medldm.training.decoder.cases import DecoderCases
from medldm.training.decoder.config import DecoderConfig
from medldm.training.decoder.trainer import DecoderTrainer
from medldm.training.early_snapshot import snapshot_beside
from medldm.training.latent_cache import encode_cases
from medldm.training.quarantine import Quarantine

logger = logging.getLogger(__name__)

DECODER_KEY = "decoder"
"""Name in a card of how the decoder was adapted; the card of a model whose decoder was not has none."""


class DecoderAdaptation:
    """Train the decoder of a checkpoint on what its denoiser makes of latents, and put it into the file.

    Nothing is read, encoded or trained before `run`, and nothing at all where `config.n_steps` is 0. A file
    whose decoder was adapted just so is left as it is; a run that was killed goes on.

    Args:
        path: of the second stage's checkpoint.
        config: steps, noise, rates.
        run: where to write and how to load; the same as of the second stage.
        autoencoder: the first stage, whose decoder is adapted, and which is not changed; its device is the
            training's.
        cases: of the cohort that the denoiser was trained on.
        validation_cases: of the cohort; the noise level is measured on them.
        transform: from a case to its volume and conditions, without anything random.
        latents_dir: where the second stage has kept its latents, in `training` and `validation`; None to keep
            none.
        quarantine: of the training cases, as in the second stage.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: DecoderConfig,
        run: RunConfig,
        autoencoder: VAE | VQVAE,
        cases: Sequence[dict[str, Any]],
        validation_cases: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any],
        latents_dir: str | Path | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.path = Path(path)
        self.config = config
        self.run_config = run
        self.autoencoder = autoencoder
        self.cases = cases
        self.validation_cases = validation_cases
        self.transform = transform
        self.latents_dir = None if latents_dir is None else Path(latents_dir)
        self.quarantine = quarantine

    def run(self) -> None:
        """Adapt the decoder; every process takes part.

        Raises:
            CheckpointError: if the checkpoint is of another first stage.
            TrainingStopped: after SIGTERM, SIGUSR1 or Ctrl-C; the state is saved.
        """
        if self.config.n_steps == 0:
            return
        barrier()
        training, digest = self.build()
        if read_card(self.path).get(DECODER_KEY, {}).get("identity") == digest:
            logger.info("the decoder in %s is adapted already", self.path.name)
            return
        writer = DecoderWriter(self.path, config=self.config, identity=digest)
        writer.attach(training.trainer)
        logger.info("adapting the decoder to the denoiser for %d steps", self.config.n_batches)
        training.trainer.run()

    def build(self) -> tuple[Training[DecoderTrainer], str]:
        """Put the training together, for the denoiser that the checkpoint holds now; and its identity."""
        model, diffusion, _ = load_latent_diffusion(self.path)
        load_weights(model.autoencoder, self.autoencoder.state_dict(), source="the first stage")
        model.to(next(self.autoencoder.parameters()).device)
        training = build_decoder_training(
            model,
            self._open("training", model, self.cases, self.quarantine),
            validation_set=self._open("validation", model, self.validation_cases, None)
            if self.validation_cases
            else None,
            config=self.config,
            diffusion=diffusion,
            run=self.run_config,
        )
        return training, training.trainer.identity.digest

    def _open(
        self,
        part: str,
        model: LatentDiffusionModel,
        cases: Sequence[dict[str, Any]],
        quarantine: Quarantine | None,
    ) -> DecoderCases:
        latents = encode_cases(
            model,
            cases,
            transform=self.transform,
            directory=None if self.latents_dir is None else self.latents_dir / part,
            num_workers=self.run_config.num_workers,
            quarantine=quarantine,
        )
        return DecoderCases(latents, MonaiDataset(list(cases), copy.deepcopy(self.transform)))


class DecoderWriter:
    """Put an adapted decoder into the checkpoint it is of, when its training has ended.

    Args:
        path: of the checkpoint.
        config: of the training.
        identity: digest of the training.
    """

    def __init__(self, path: str | Path, *, config: DecoderConfig, identity: str) -> None:
        self.path = Path(path)
        self.config = config
        self.identity = identity

    def attach(self, trainer: DecoderTrainer) -> None:
        """Write at the end of the training, in the first process; the others wait."""
        engine: Any = trainer
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, trainer: Engine) -> None:
        if is_main_process():
            own: Any = trainer
            self.write(own.average.module.autoencoder.state_dict(), noise_level=own.denoised.level.value)
        barrier()

    def write(self, weights: Mapping[str, Tensor], *, noise_level: float) -> None:
        """Replace the checkpoint, atomically, by one with an autoencoder's weights in it.

        So is the early snapshot beside it, whose denoiser errs about as much; it comes first, for a run that
        is killed in between goes on where the checkpoint lacks the decoder.

        Args:
            weights: of the autoencoder, by name.
            noise_level: on which the decoder was trained.
        """
        adapted = {f"autoencoder.{name}": tensor for name, tensor in weights.items()}
        config = self.config
        card = {
            "steps": config.n_batches,
            "noise_level": noise_level,
            "is_measured": config.noise_level is None,
            "denoising_steps": config.denoising_steps,
            "adversarial_share": config.adversarial_share,
            "adversarial_weight": config.adversarial_weight,
            "adaptive_weight": config.adaptive_weight,
            "weights_sha256": hash_weights(weights),
            "identity": self.identity,
        }
        early = snapshot_beside(self.path)
        for path in [self.path] if early is None else [early, self.path]:
            found = load_checkpoint(path, kind="latent_diffusion")
            own = {**found.card, DECODER_KEY: {**card, "denoiser_of": self.path.name}}
            save_checkpoint(path, {**found.weights, **adapted}, own)
            logger.info("the adapted decoder is in %s", path.name)
