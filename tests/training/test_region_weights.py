"""The loss's weights by structure: shares of a block of voxels, their scale, and who is refused."""

from __future__ import annotations

import pytest
import torch

from benchmarks.tiny_trainings import make_latents
from medldm import LatentDiffusionConfig
from medldm.conditioning import Conditions
from medldm.errors import ConfigError
from medldm.training import DenoisingTask, LatentDataset, RunConfig, build_diffusion_training
from medldm.training.region_weights import RegionWeights, resolve_region_weights

STRUCTURES = {5: "core", 1: "shell"}


def make_labels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 3, (2, 1, 15, 20, 14), generator=generator)


def make_loss(model, config: LatentDiffusionConfig):
    """Return the losses of two fixed samples with the labels above, and what is needed to compute them."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(2, 3, 4, 5, 4, generator=generator) for _ in range(2))
    task = DenoisingTask(model, config)
    t = torch.tensor([100, 700])
    weights = task.weigh_regions({"label": make_labels()}, x_0)
    with torch.no_grad():
        losses = task.loss(model.denoiser, x_0, Conditions({}), t=t, noise=noise, region_weights=weights)
        alpha, sigma = (each.view(2, 1, 1, 1, 1) for each in task.path.alpha_sigma(t))
        x_t = (alpha * x_0 + sigma * noise).float()
        error = (model.denoiser(x_t, task.path.network_time(t), Conditions({})) - noise) ** 2
    return losses, error


def test_weights_1_give_the_plain_loss(make_model) -> None:
    plain, _ = make_loss(make_model(), LatentDiffusionConfig())
    ones = {"background": 1.0, "core": 1.0, "shell": 1.0}
    torch.testing.assert_close(make_loss(make_model(), LatentDiffusionConfig(region_weights=ones))[0], plain)
    twos = dict.fromkeys(ones, 2.0)
    torch.testing.assert_close(make_loss(make_model(), LatentDiffusionConfig(region_weights=twos))[0], plain)


def test_a_weight_gives_the_weighted_mean_by_hand(make_model) -> None:
    config = LatentDiffusionConfig(region_weights={"core": 4.0, "background": 0.5})
    losses, error = make_loss(make_model(), config)
    padded = torch.nn.functional.pad(make_labels().float(), (0, 2, 0, 0, 0, 1), mode="replicate")
    for case in range(2):
        total, weight_sum = 0.0, 0.0
        for x in range(4):
            for y in range(5):
                for z in range(4):
                    block = padded[case, 0, 4 * x : 4 * x + 4, 4 * y : 4 * y + 4, 4 * z : 4 * z + 4]
                    share = [(block == index).float().mean() for index in range(3)]
                    weight = 0.5 * share[0] + 1.0 * share[1] + 4.0 * share[2]
                    total += float(weight * error[case, :, x, y, z].mean())
                    weight_sum += float(weight)
        assert losses[case] == pytest.approx(total / weight_sum, rel=1e-4)


def test_each_axis_has_its_own_blocks() -> None:
    labels = torch.zeros(1, 1, 4, 4, 3, dtype=torch.int64)
    labels[:, :, :, :2, 2] = 1
    found = RegionWeights({"shell": 3.0}, STRUCTURES).on_latents(labels, (2, 1, 3), (2, 4, 1))
    expected = torch.ones(1, 1, 2, 1, 3)
    expected[..., 2] = 2.0  # half of each block
    torch.testing.assert_close(found, expected / expected.mean())


def test_a_case_without_structures_weighs_as_any_other() -> None:
    labels = torch.zeros(2, 1, 8, 8, 8, dtype=torch.int64)
    labels[1, ..., :4] = 2
    found = RegionWeights({"core": 3.0}, STRUCTURES).on_latents(labels, (2, 2, 2), (4, 4, 4))
    assert (found[0] == 1).all()
    torch.testing.assert_close(found.mean(dim=(1, 2, 3, 4)), torch.ones(2))


def test_inverse_volumes_are_measured_and_bounded(make_model) -> None:
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    labels[:, :8] = 1
    labels[:, 8, :8] = 2
    entries = [{"mean": torch.zeros(3, 4, 4, 4), "std": torch.ones(3, 4, 4, 4), "label": labels}]
    config = LatentDiffusionConfig(region_weights="inverse_volume")
    found = resolve_region_weights(config, make_model(), LatentDataset(entries))
    assert found.region_weights == {"shell": 1.0, "core": 10.0}
    labels[:, 8:12] = 2
    found = resolve_region_weights(config, make_model(), LatentDataset(entries))
    assert found.region_weights == {"shell": 1.0, "core": 2.0}


def test_unknown_structures_and_models_without_label_maps_are_refused(make_model) -> None:
    dataset = LatentDataset([])
    for weights, model, reason in (
        ({"cor": 2.0}, make_model(), r"Unknown structure in region_weights 'cor'. Did you mean 'core'"),
        ({"core": 2.0}, make_model(("class",)), "name label_map in conditioning_type"),
    ):
        with pytest.raises(ConfigError, match=reason):
            resolve_region_weights(LatentDiffusionConfig(region_weights=weights), model, dataset)
    for weights in ({"core": 0.0}, {"core": -1.0}, {"core": float("inf")}):
        with pytest.raises(ConfigError, match="above 0 is needed"):
            LatentDiffusionConfig(region_weights=weights)


def test_a_training_takes_them_and_they_are_part_of_its_identity(make_model) -> None:
    """The loss that is reported differs, from the same weights and noise."""

    def run(weights) -> tuple[float, str]:
        entries = [
            {**entry, "label": torch.randint(0, 3, (1, 16, 15, 14), dtype=torch.uint8)}
            for entry in make_latents(2)
        ]
        training = build_diffusion_training(
            make_model(),
            LatentDataset(entries),
            validation_set=LatentDataset(entries),
            config=LatentDiffusionConfig(n_epochs=1, region_weights=weights),
            run=RunConfig(batch_size=2),
        )
        training.trainer.run()
        training.evaluator.run()
        return training.trainer.state.output["loss"], training.evaluator.state.metrics["validation_loss"]

    torch.manual_seed(0)
    plain = run(None)
    torch.manual_seed(0)
    weighted = run({"core": 10.0})
    assert plain[0] != weighted[0] and plain[1] != weighted[1]
