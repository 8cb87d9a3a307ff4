"""The latent cache: what it keeps and the statistics it gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import Compose, Transform
from scipy.fft import dctn

from medldm.errors import ConfigError
from medldm.training import LatentDataset, cache_latents, encode_cases, measure_latent_statistics

VOLUMES = [torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def batches() -> list[dict[str, torch.Tensor]]:
    labels = torch.randint(0, 3, (1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(9))
    return [
        {"image": volume, "label": labels, "class": torch.tensor([i])} for i, volume in enumerate(VOLUMES)
    ]


def test_entries_are_the_posteriors_with_their_conditions(make_model) -> None:
    model = make_model()
    dataset = cache_latents(model, batches())
    mean, std = model.autoencoder.encode_moments(VOLUMES[1])
    assert torch.equal(dataset[1]["mean"], mean[0].detach())
    assert torch.equal(dataset[1]["std"], std[0].detach())
    assert dataset[1]["class"] == 1
    assert torch.equal(dataset[1]["label"].long(), batches()[1]["label"][0])


def test_on_disk_and_in_memory_are_the_same(make_model, tmp_path) -> None:
    model = make_model()
    memory, disk = cache_latents(model, batches()), cache_latents(model, batches(), directory=tmp_path)
    for index in range(3):
        assert all(torch.equal(memory[index][name], disk[index][name]) for name in memory[index])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_another_autoencoder_gets_another_folder(make_model, tmp_path) -> None:
    model = make_model()
    cache_latents(model, batches(), directory=tmp_path)
    torch.nn.init.normal_(next(model.autoencoder.parameters()))
    cache_latents(model, batches(), directory=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_statistics_are_those_of_sampled_latents() -> None:
    torch.manual_seed(0)
    entries = [
        {
            "mean": torch.tensor([1.0, -4.0]).view(2, 1, 1, 1) + torch.randn(2, 20, 20, 20),
            "std": torch.full((2, 20, 20, 20), s),
        }
        for s in (0.5, 2.0)
    ]
    mean, std = LatentDataset(entries).measure_statistics()
    samples = torch.cat(
        [e["mean"] + e["std"] * torch.randn_like(e["mean"]) for e in entries for _ in range(20)], dim=1
    )
    assert torch.allclose(mean.float(), samples.flatten(1).mean(1), atol=0.02)
    assert torch.allclose(std.float(), samples.flatten(1).std(1), atol=0.02)
    assert mean.dtype == torch.float64


class LoadTensord(Transform):
    """Load a case's volume, and count."""

    def __init__(self) -> None:
        self.n_loaded = 0

    def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
        self.n_loaded += 1
        volume = torch.frombuffer(bytearray(Path(case["image"]).read_bytes()), dtype=torch.float32)
        return {"image": volume.view(1, 16, 16, 16), "class": torch.tensor(case["class"])}


@pytest.fixture
def cases(tmp_path) -> list[dict[str, Any]]:
    found = []
    for i, volume in enumerate(VOLUMES):
        path = tmp_path / f"patient_{i}.bin"
        path.write_bytes(volume.numpy().tobytes())
        found.append({"id": f"patient_{i}", "image": str(path), "class": i})
    return found


def encode(model, cases, folder) -> tuple[LatentDataset, int]:
    load = LoadTensord()
    dataset = encode_cases(model, cases, transform=Compose([load]), directory=folder)
    return dataset, load.n_loaded


def test_an_earlier_run_s_latents_are_taken_without_reading_a_volume(make_model, tmp_path, cases) -> None:
    model, folder = make_model(("class",)), tmp_path / "cache"
    first, n_first = encode(model, cases, folder)
    again, n_again = encode(model, cases[::-1], folder)
    assert (n_first, n_again) == (3, 0)
    expected, _ = encode(model, cases, None)
    for index in range(3):
        assert all(torch.equal(first[index][name], expected[index][name]) for name in expected[index])
        assert all(torch.equal(again[2 - index][name], expected[index][name]) for name in expected[index])


def test_what_changed_is_encoded_again(make_model, tmp_path, cases) -> None:
    model, folder = make_model(("class",)), tmp_path / "cache"
    encode(model, cases, folder)
    os.utime(cases[0]["image"], ns=(1, 1))
    assert encode(model, cases, folder)[1] == 0, "a file that was touched holds what it held"
    status = Path(cases[0]["image"]).stat()
    Path(cases[0]["image"]).write_bytes(VOLUMES[0].flip(2).contiguous().numpy().tobytes())
    os.utime(cases[0]["image"], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert encode(model, cases, folder)[1] == 1
    other = [cases[0], cases[1] | {"class": 0}, cases[2]]
    dataset, n_loaded = encode(model, other, folder)
    assert n_loaded == 1
    assert dataset[1]["class"] == 0
    assert encode(make_model(("class",), num_classes=4), cases, folder)[1] == 3
    torch.nn.init.normal_(next(model.autoencoder.parameters()))
    assert encode(model, cases, folder)[1] == 3


def test_a_moved_cohort_is_not_encoded_again(make_model, tmp_path, cases) -> None:
    model, folder = make_model(("class",)), tmp_path / "cache"
    encode(model, cases, folder)
    moved = []
    for case in cases:
        path = tmp_path / "elsewhere" / Path(case["image"]).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Path(case["image"]).read_bytes())
        moved.append(case | {"image": str(path), "id": f"other_{case['id']}"})
    assert encode(model, moved, folder)[1] == 0


def test_another_value_of_a_transform_s_argument_is_encoded_again(make_model, tmp_path, cases) -> None:
    model, folder = make_model(("class",)), tmp_path / "cache"

    class Scaled(LoadTensord):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
            loaded = super().__call__(case)
            return loaded | {"image": loaded["image"] * self.factor}

    for factor, n_loaded in ((1.0, 3), (2.0, 3), (1.0, 0)):
        load = Scaled(factor)
        encode_cases(model, cases, transform=Compose([load]), directory=folder)
        assert load.n_loaded == n_loaded


def test_another_space_or_network_gets_another_folder(make_model, tmp_path, cases) -> None:
    model, folder = make_model(("class",)), tmp_path / "cache"
    encode(model, cases, folder)
    model.space = model.space.copy(spacing_mm=(2, 2, 2))
    encode(model, cases, folder)
    assert len(list(folder.iterdir())) == 2


def test_the_spread_of_modes_is_their_mean_square_over_the_cohort(make_model, tmp_path, cases) -> None:
    """By scipy; the posterior adds its variance to each mode alike; channels agree with theirs."""
    model = make_model(("class",))
    dataset, _ = encode(model, cases, tmp_path / "cache")
    measure_latent_statistics(model, dataset)
    assert model.latent_spectrum is None
    measure_latent_statistics(model, dataset, of_modes=True)
    entries = list(dataset.sound_entries())
    means = torch.stack([model.standardise(entry["mean"][None].double())[0] for entry in entries])
    scale = model.latent_scale.double().view(-1, 1)
    added = torch.stack([(entry["std"].double().flatten(1) * scale).square().mean(1) for entry in entries])
    modes = dctn(means.numpy(), axes=(2, 3, 4), norm="ortho") ** 2 + added.numpy()[..., None, None, None]
    torch.testing.assert_close(model.spread, torch.as_tensor(modes.mean(0)).sqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        model.spread.flatten(1).square().mean(1).sqrt(), model.latent_spread.double(), rtol=1e-4, atol=0
    )


def test_an_empty_list_of_cases_has_no_latents_and_trains_nothing(make_model, tmp_path) -> None:
    model = make_model(("class",))
    dataset, _ = encode(model, [], tmp_path / "cache")
    assert len(dataset) == 0
    with pytest.raises(ConfigError, match="list of training cases is empty"):
        measure_latent_statistics(model, dataset)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_latents_are_made_again(make_model, tmp_path, cases, caplog, damage) -> None:
    model, folder = make_model(("class",)), tmp_path / "cache"
    dataset, _ = encode(model, cases, folder)
    path = dataset.entries[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-10])
    again, n_loaded = encode(model, cases, folder)
    assert n_loaded == 1
    assert "damaged and made again" in caplog.text
    expected, _ = encode(model, cases, None)
    assert torch.equal(again[1]["std"], expected[1]["std"])


def test_batches_of_a_loader_are_not_encoded_twice(make_model, tmp_path) -> None:
    model = make_model()
    cache_latents(model, batches(), directory=tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    cache_latents(model, batches(), directory=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == stamps


def test_neither_identifiers_nor_paths_reach_the_cache(make_model, tmp_path, cases) -> None:
    encode(make_model(("class",)), cases, tmp_path / "cache")
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any("patient" in str(path) or b"patient" in path.read_bytes() for path in files)


class LoadChannelsd(LoadTensord):
    """Load the channels of a case, and count."""

    def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
        files = case["image"]
        channels = [super(LoadChannelsd, self).__call__(case | {"image": file})["image"] for file in files]
        return {"image": torch.cat(channels), "class": torch.tensor(case["class"])}


def test_a_changed_file_of_any_channel_is_encoded_anew(make_model, tmp_path, cases) -> None:
    model, folder = make_model(("class",), channels=("t1n", "ct")), tmp_path / "cache"
    both = [
        case | {"image": [case["image"], other["image"]]}
        for case, other in zip(cases, cases[::-1], strict=True)
    ]
    counts = []
    for _ in range(2):
        load = LoadChannelsd()
        first = encode_cases(model, both, transform=Compose([load]), directory=folder)
        counts.append(load.n_loaded)
        (tmp_path / "patient_0.bin").write_bytes(VOLUMES[1].numpy().tobytes())
        os.utime(tmp_path / "patient_0.bin", (1, 1))
    # patient_0 is the first channel of one case and the second of another.
    assert counts == [6, 4]
    mean, _ = model.autoencoder.encode_moments(torch.cat([VOLUMES[1], VOLUMES[2]], dim=1))
    assert torch.equal(first[0]["mean"], mean[0].detach())
