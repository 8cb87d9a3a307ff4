"""A package is a whole bundle that MONAI's checks accept, works elsewhere, and names no case."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out
from safetensors.torch import load_file

import medldm
from medldm.conditioning import Conditions
from medldm.errors import CheckpointError, ConfigError, OutputExistsError, StorageError
from medldm.latent_diffusion.checkpoints import load_checkpoint, save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_latent_diffusion
from medldm.latent_diffusion.recorded_split import split_of
from medldm.sharing.package import PackageConfig, package_model
from medldm.sharing.shipped import find_bundle
from medldm.sharing.torchscript import DenoiserPart, example_inputs
from medldm.transforms import IntensityMapping
from tests.programs import run_python
from tests.sharing.conftest import CONFIG, SPLIT

pytestmark = pytest.mark.filterwarnings("ignore:No hash value provided", "ignore:parsing config_file")


def make(checkpoint: Path, folder: Path, **options: Any) -> Path:
    return package_model(checkpoint, folder, PackageConfig(licence="Apache-2.0", **options)).folder


def model_of(folder: Path) -> Any:
    return load_latent_diffusion(folder / "models" / "latent_diffusion.safetensors")[0]


def check_as_the_zoo_does(folder: Path) -> None:
    """The steps of verify_bundle.py of MONAI's model zoo, in its modes "min" and "full", on the CPU.

    Its last step, `ckpt_export`, is the one that it leaves out for bundles of latent diffusion.
    """
    for name in ("configs/metadata.json", "LICENSE", "models/model.pt", "configs/inference.yaml"):
        assert (folder / name).is_file(), name
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    meta_file = str(folder / "configs" / "metadata.json")
    verify_metadata(meta_file=meta_file, filepath=str(folder / "docs" / "metadata_schema.json"))
    verify_net_in_out(
        net_id="network_def",
        meta_file=meta_file,
        config_file=str(folder / "configs" / "inference.yaml"),
        bundle_root=str(folder),
        device="cpu",
    )
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    model_of(folder).autoencoder.load_state_dict(weights)
    for part in ("decoder", "denoiser"):
        extra = {"metadata.json": ""}
        torch.jit.load(folder / "models" / f"{part}.ts", _extra_files=extra)
        with ZipFile(folder / "models" / f"{part}.ts") as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
        assert str(Path(medldm.__file__).parent).encode() not in content
        assert json.loads(extra["metadata.json"])["version"] == metadata["version"]


@pytest.mark.parametrize("channels", [(), ("t1", "ct")])
def test_a_package_of_images_passes_the_checks_of_the_model_zoo(channels, save_model, tmp_path) -> None:
    folder = make(save_model(channels=channels), tmp_path / "shared")
    check_as_the_zoo_does(folder)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["spacing_mm"] == [1, 1, 1] and "1 shell, 5 core" in metadata["label_classes"]


def test_the_configs_of_a_package_are_those_of_the_bundle_that_trains_such_models(
    save_model, save_label_map_model, make_model, tmp_path
) -> None:
    ct = make_model(("label_map",), channels=("air", "ct"))
    intensity = {name: IntensityMapping(kind="ct_window") for name in ("air", "ct")}
    ct.space = ct.space.copy(intensity=intensity)
    path = tmp_path / "ct.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(ct, CONFIG)())
    for checkpoint, name in (
        (save_model(), "mri_label_ldm"),
        (path, "ct_label_ldm"),
        (save_label_map_model(), "labelmap_ldm"),
    ):
        folder = make(checkpoint, tmp_path / name, torchscript=False)
        own = (folder / "configs" / "evaluate.yaml").read_bytes()
        assert own == find_bundle(name).config("evaluate").read_bytes()


def test_a_package_of_label_maps_passes_them_too(save_label_map_model, tmp_path) -> None:
    check_as_the_zoo_does(make(save_label_map_model(), tmp_path / "shared"))


@pytest.mark.parametrize("conditions", [(), ("label_map",), ("class", "scalars", "label_map", "text")])
def test_traced_parts_equal_the_model_for_other_inputs_and_batches(conditions, save_model, tmp_path) -> None:
    options = {"scalars": {"age": (20.0, 80.0)}, "text_tokens": 3} if "scalars" in conditions else {}
    folder = make(save_model(conditions, **options), tmp_path / "shared", half="float16")
    model = model_of(folder)
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 3, 4, 5, 4, generator=generator)
    decoder = torch.jit.load(folder / "models" / "decoder.ts")
    assert torch.allclose(decoder(latents), model.decode(latents), atol=1e-4)
    inputs = [latents, torch.tensor([3.0, 700.0])]
    for example in example_inputs(model, "denoiser")[2:]:
        inputs.append(torch.cat([example, example]))
    if conditions:
        inputs[2] = torch.rand(inputs[2].shape, generator=generator) < 0.5
        inputs[2][0] = False
    denoiser = torch.jit.load(folder / "models" / "denoiser.ts")
    with torch.no_grad():
        wanted = DenoiserPart(model)(*inputs)
        assert torch.allclose(denoiser(*inputs), wanted, atol=1e-4)
        if conditions == ("label_map",):
            told = Conditions({"label_map": torch.full((2, 1, 16, 20, 16), 2)})
            inputs = [*inputs[:2], torch.zeros(2, 1, dtype=torch.bool), told.values["label_map"]]
            assert torch.allclose(denoiser(*inputs), model.denoiser(*inputs[:2], told), atol=1e-4)
            inputs[2][:] = True
            assert torch.allclose(denoiser(*inputs), model.denoiser(*inputs[:2], None), atol=1e-4)


def test_without_half_the_model_is_the_trained_one_to_the_bit(save_model, tmp_path) -> None:
    checkpoint = save_model()
    folder = make(checkpoint, tmp_path / "shared", torchscript=False)
    one, other = load_latent_diffusion(checkpoint)[0].state_dict(), model_of(folder).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["latent_diffusion.safetensors"]


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_stored_weights_load_exactly_and_the_card_says_what_is_lost(half, save_model, tmp_path) -> None:
    checkpoint = save_model()
    folder = make(checkpoint, tmp_path / "shared", half=half, torchscript=False)
    stored, loaded = (
        load_file(folder / "models" / "latent_diffusion.safetensors"),
        model_of(folder).state_dict(),
    )
    assert all(torch.equal(tensor.float(), loaded[name]) for name, tensor in stored.items())
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32, getattr(torch, half)}
    card = load_checkpoint(folder / "models" / "latent_diffusion.safetensors").card
    before = load_latent_diffusion(checkpoint)[0].state_dict()
    loss = max(
        float((before[name] - tensor.float()).abs().max() / before[name].abs().max())
        for name, tensor in stored.items()
        if tensor.dtype != torch.float32
    )
    # Rounding to nearest: at most half of the last place.
    assert 0 < loss <= (2**-11 if half == "float16" else 2**-8)
    assert card["storage"]["loss"]["weights"] == pytest.approx(loss, rel=1e-6)
    assert card["storage"]["rounded_from"] == load_checkpoint(checkpoint).card["weights_sha256"]
    assert f"stored as {half}" in (folder / "docs" / "README.md").read_text()


def test_no_name_of_a_case_leaves_and_the_hashed_split_stays(save_model, tmp_path, caplog) -> None:
    more = {
        "cases": ["anna_meyer"],
        "training": {"epoch": 3, "identity": "beef", "from": "/home/anna_meyer/scan.nii.gz"},
        "started_from": {"denoiser": [{"weights_sha256": "ab", "file": "anna_meyer.safetensors"}]},
    }
    folder = make(save_model(more=more), tmp_path / "shared")
    for path in folder.rglob("*"):
        assert not path.is_file() or b"anna_meyer" not in path.read_bytes(), path
    card = load_checkpoint(folder / "models" / "latent_diffusion.safetensors").card
    assert card["training"] == {"epoch": 3, "identity": "beef"}
    assert card["started_from"] == {"denoiser": [{"weights_sha256": "ab"}]}
    assert split_of(folder / "models" / "latent_diffusion.safetensors") == SPLIT


def report_of(checkpoint: Path, path: Path, **changes: Any) -> str:
    estimate = {"value": 0.512, "lower": 0.44, "upper": 0.58}
    figure = {
        "key": "privacy.membership_auc_loss",
        "title": "Membership AUC",
        "unit": "",
        "synthetic": estimate,
    }
    lacking = {
        "key": "agreement.mean",
        "title": "Label agreement",
        "unit": "",
        "synthetic": None,
        "real": None,
    }
    content = {
        "model_sha256": load_checkpoint(checkpoint).card["weights_sha256"],
        "figures": [{**figure, "real": estimate | {"value": 0.5}}, lacking],
        "copies": {},
    }
    path.write_text(json.dumps(content | changes))
    return str(path)


def test_the_card_shows_what_was_measured_with_intervals_and_invents_nothing(save_model, tmp_path) -> None:
    checkpoint = save_model()
    report = report_of(checkpoint, tmp_path / "report.json")
    options = {"data": "ten phantoms, CC0", "notes": "medldm train all x y; 3 minutes", "torchscript": False}
    folder = make(checkpoint, tmp_path / "shared", report=report, **options)
    page = (folder / "docs" / "README.md").read_text()
    assert "| Privacy | Membership AUC | 0.512 (0.44 to 0.58) | 0.5 (0.44 to 0.58) |" in page
    assert "ten phantoms, CC0" in page and "3 minutes" in page
    assert page.count("not measured") == 11
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"]["Membership AUC"] == "0.512 (0.44 to 0.58)"
    bare = (make(checkpoint, tmp_path / "bare", torchscript=False) / "docs" / "README.md").read_text()
    assert bare.count("not measured") == 12 and bare.count("not stated") == 2


def test_a_report_of_another_model_is_refused(save_model, tmp_path) -> None:
    checkpoint = save_model()
    for changes, message in (
        ({"model_sha256": "0" * 64}, "is of the weights 000000"),
        ({"model_sha256": None}, "does not say of which weights"),
        ({"figures": None}, r"is no report\.json"),
    ):
        report = report_of(checkpoint, tmp_path / "report.json", **changes)
        with pytest.raises(ConfigError, match=message):
            make(checkpoint, tmp_path / "shared", report=report)
    assert not (tmp_path / "shared").exists()


def test_what_cannot_be_packaged_is_refused_and_leaves_nothing(
    save_model, save_label_map_model, tmp_path
) -> None:
    checkpoint, folder = save_model(), tmp_path / "shared"
    with pytest.raises(StorageError, match=r"latent_diffusion\.safetensors.* MB: a file may have 0\.01 MB"):
        make(checkpoint, folder, max_file_mb=0.01)
    with pytest.raises(ConfigError, match="licence is 'mine'"):
        PackageConfig(licence="mine")
    with pytest.raises(CheckpointError, match="no model of the second stage"):
        make(tmp_path / "none.safetensors", folder)
    with pytest.raises(ConfigError, match=r"makes maps of \{1: 'liver'\}"):
        make(checkpoint, folder, label_maps=str(save_label_map_model({1: "liver"})))
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine").write_text("")
    with pytest.raises(OutputExistsError, match="not empty"):
        make(checkpoint, folder)


def test_a_licence_of_ones_own_takes_the_place_of_the_bundles(save_model, tmp_path) -> None:
    licence = tmp_path / "licence.txt"
    licence.write_text("CC BY-SA 4.0\n\ntext")
    folder = package_model(
        save_model(), tmp_path / "shared", PackageConfig(licence=str(licence), torchscript=False)
    ).folder
    assert (folder / "LICENSE").read_text() == licence.read_text()
    assert json.loads((folder / "configs" / "metadata.json").read_text())["license"] == "CC BY-SA 4.0"


@pytest.mark.slow
def test_zipped_and_unzipped_elsewhere_it_makes_the_same_volume(
    save_model: Callable[..., Path], make_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint, maps = save_model(), make_cohort(1) / "labels"
    folder = make(checkpoint, tmp_path / "shared")
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, "shared")
    shutil.rmtree(folder)
    shutil.unpack_archive(archive, tmp_path / "elsewhere")
    elsewhere = tmp_path / "elsewhere" / "shared"
    run = ["-m", "medldm.cli", "run", "--config_file", "configs/inference.yaml", "--label_dir", str(maps)]
    done = run_python([*run, "--num_steps", "2", "--seed", "7"], cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    own = ["-m", "medldm.cli", "generate", str(checkpoint), "own", "--label-dir", str(maps)]
    assert run_python([*own, "--num-steps", "2", "--seed", "7"], cwd=tmp_path).returncode == 0
    name = "images/synthetic_0000.nii.gz"
    one, other = (
        nib.load(place / name).get_fdata()
        for place in (elsewhere / "outputs" / "synthetic", tmp_path / "own")
    )
    assert np.array_equal(one, other)
