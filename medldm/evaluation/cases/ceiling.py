"""Real test cases through the model's autoencoder: the most that any denoiser behind it can reach.

What differs between them and the real test cases is lost by the first stage; what differs between them and
the synthetic cases is lost by the second. They get the model's texture, as sampled volumes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medldm.data.case_checks import image_files
from medldm.data.cohort import Cohort
from medldm.data.listing import Case
from medldm.evaluation.cases.model_cases import EvaluatedModel
from medldm.evaluation.cases.reading import scale_set
from medldm.evaluation.cases.sets import CaseSet, CaseSets
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.seeds import texture_seed
from medldm.transforms import CentreCropOrPad, LoadVolume, NormaliseIntensity, ResampleToSpacing


class AutoencodedCases:
    """The real test cases through the autoencoder, with all their channels at once.

    Cases of several channels are kept, for the channels are asked for one after the other.

    Args:
        evaluated: the model.
        cohort: the test cases' files, with the model's channels in its order.
        seed: of the texture.
    """

    def __init__(self, evaluated: EvaluatedModel, cohort: Cohort, *, seed: int = 0) -> None:
        self.evaluated, self.cohort, self.seed = evaluated, cohort, seed
        self._known: dict[int, MetaTensor] = {}

    def __len__(self) -> int:
        return len(self.cohort.cases)

    def load(self, place: int) -> MetaTensor:
        """Return a case (C, X, Y, Z), on its file's grid and in its units."""
        if place in self._known:
            return self._known[place]
        case, seed = self.cohort.cases[place], texture_seed(self.seed, place)
        found = reconstruct_case(case, self.evaluated, seed=seed)
        if len(found) > 1:
            self._known[place] = found
        return found


def make_ceiling(
    autoencoded: AutoencodedCases,
    sets: CaseSets,
    *,
    channel: int = 0,
    progress: Callable[[str], None] | None = None,
) -> CaseSet:
    """Return the test set with each image encoded and decoded again, on the same grid and scale.

    Args:
        autoencoded: the same cases through the model's autoencoder.
        sets: the cases as the evaluation sees them, and its grid and scale.
        channel: place of the channel that the sets hold.
        progress: told what is being done.
    """
    images = []
    for place in range(len(autoencoded)):
        if progress is not None:
            progress(f"real test case {place + 1} of {len(autoencoded)} through the autoencoder")
        own = cast(MetaTensor, autoencoded.load(place)[channel : channel + 1].clone())
        image = ResampleToSpacing(sets.spacing_mm)(own)[0].numpy()
        images.append(np.asarray(image, dtype=np.float32))
    low, high = np.median([np.percentile(image, (0.5, 99.5)) for image in images], axis=0)
    ceiling = replace(sets.test, images=tuple(images), file_range=(float(low), float(high)))
    return ceiling if sets.is_ct else scale_set(ceiling)


@torch.no_grad()
def reconstruct_case(case: Case, evaluated: EvaluatedModel, *, seed: int = 0) -> MetaTensor:
    """Return a case (C, X, Y, Z) through the autoencoder, with texture, on its file's grid and in its units.

    The file's field of view is kept: what the model's grid adds is cut off again, and nothing is cut before.

    Args:
        case: of a cohort with the model's channels.
        evaluated: the model.
        seed: of the texture, which a model that has one draws as in sampling.
    """
    model = evaluated.model
    space = require_volume_space(model.space)
    files: list[Any] = image_files(case)
    loaded = LoadVolume()(files if len(files) > 1 else files[0])
    shape = ResampleToSpacing(space.spacing_mm)(loaded.clone()).shape[1:]
    size = [max(n, own) for n, own in zip(shape, space.size, strict=True)]
    way = Compose(
        [
            ResampleToSpacing(space.spacing_mm),
            NormaliseIntensity(space.intensities),
            CentreCropOrPad(size, fill=-1.0),
        ]
    )
    prepared = way(loaded)
    batch = prepared.as_tensor()[None].to(model.latent_shift.device)
    decoded = model.reconstruct(batch)
    if model.texture is not None:
        decoded = model.texture.draw(decoded, [seed])
    found = MetaTensor(decoded[0].cpu().float()).copy_meta_from(prepared)
    found.applied_operations = list(prepared.applied_operations)
    return way.inverse(found)
