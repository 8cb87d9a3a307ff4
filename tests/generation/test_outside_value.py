"""CT volumes whose outside is one value: in the voxels that are written, and named in the sidecar."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np

from medldm import LatentDiffusionConfig
from medldm.generation.engine import SamplingConfig, generate
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.transforms.body_mask import set_outside


def test_volumes_get_the_value_outside_and_say_so(make_model, make_cohort, tmp_path) -> None:
    maps = [str(make_cohort(1) / "labels" / "case_0.nii.gz")]
    found = {}
    for name, said in (("plain", {}), ("cut", {"outside_value": -1000, "intensity_note": "minus 1000"})):
        model = make_model(("label_map",))
        model.space = VolumeSpace(
            spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity={"kind": "ct_window"}, **said
        )
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
        (file,) = generate(path, tmp_path / name, labels=maps, sampling=SamplingConfig(num_steps=2, seed=3))
        image = nib.load(file)
        found[name] = np.asarray(image.dataobj)
        sidecar = json.loads((tmp_path / name / "sidecars" / "synthetic_0000.json").read_text())
        assert {key: sidecar.get(key) for key in said} == said
    assert found["cut"].dtype == np.int16
    assert np.array_equal(found["cut"], set_outside(found["plain"], image.affine, value=-1000))
