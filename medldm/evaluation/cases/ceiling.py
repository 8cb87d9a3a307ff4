"""Real test cases through the model's autoencoder: the most that any denoiser behind it can reach.

What differs between them and the real test cases is lost by the first stage; what differs between them and
the synthetic cases is lost by the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medldm.data.case_checks import only_image
from medldm.data.cohort import Cohort
from medldm.data.listing import Case
from medldm.evaluation.cases.model_cases import EvaluatedModel
from medldm.evaluation.cases.reading import scale_set
from medldm.evaluation.cases.sets import CaseSet, CaseSets, Image
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.transforms import CentreCropOrPad, LoadVolume, NormaliseIntensity, ResampleToSpacing


def make_ceiling(
    evaluated: EvaluatedModel,
    cohort: Cohort,
    sets: CaseSets,
    *,
    progress: Callable[[str], None] | None = None,
) -> CaseSet:
    """Return the test set with each image encoded and decoded again, on the same grid and scale.

    Args:
        evaluated: the model; of images of one channel.
        cohort: the test cases' files.
        sets: the same cases as the evaluation sees them, and its grid and scale.
        progress: told what is being done.
    """
    images = []
    for number, case in enumerate(cohort.cases, start=1):
        if progress is not None:
            progress(f"real test case {number} of {len(cohort.cases)} through the autoencoder")
        images.append(reconstruct_case(case, evaluated, spacing_mm=sets.spacing_mm))
    low, high = np.median([np.percentile(image, (0.5, 99.5)) for image in images], axis=0)
    ceiling = replace(sets.test, images=tuple(images), file_range=(float(low), float(high)))
    return ceiling if sets.is_ct else scale_set(ceiling)


@torch.no_grad()
def reconstruct_case(case: Case, evaluated: EvaluatedModel, *, spacing_mm: Sequence[float]) -> Image:
    """Return a case's image (X, Y, Z) through the autoencoder, back on its file's grid and in its units, then
    on a spacing.

    The file's field of view is kept: what the model's grid adds is cut off again, and nothing is cut before.
    """
    model = evaluated.model
    space = require_volume_space(model.space)
    loaded = LoadVolume()(only_image(case))
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
    decoded = MetaTensor(model.reconstruct(batch)[0].cpu().float()).copy_meta_from(prepared)
    decoded.applied_operations = list(prepared.applied_operations)
    restored = way.inverse(decoded)
    return np.asarray(ResampleToSpacing(spacing_mm)(restored)[0].numpy(), dtype=np.float32)
