"""Third phase: the decoder alone, on latents as the trained denoiser makes them."""

from medldm.training.decoder.adaptation import DecoderAdaptation
from medldm.training.decoder.assembly import build_decoder_training
from medldm.training.decoder.cases import DecoderCases
from medldm.training.decoder.config import DecoderConfig
from medldm.training.decoder.noise_level import NoiseLevel, match_level, measure_level
from medldm.training.decoder.trainer import DecoderEvaluator, DecoderTrainer, LatentDecoder

__all__ = [
    "DecoderAdaptation",
    "DecoderCases",
    "DecoderConfig",
    "DecoderEvaluator",
    "DecoderTrainer",
    "LatentDecoder",
    "NoiseLevel",
    "build_decoder_training",
    "match_level",
    "measure_level",
]
