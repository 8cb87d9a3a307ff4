"""The latent cache: what it keeps and the statistics it gives."""

from __future__ import annotations

import torch

from medldm.training import LatentDataset, cache_latents

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
    assert sorted(file.name for file in tmp_path.rglob("*.safetensors"))[0] == "000000.safetensors"


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
