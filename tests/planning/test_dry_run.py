"""Dry runs: bytes that can be counted by hand, and what must raise or lower them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from medldm.configs import Config
from medldm.networks import VAEConfig
from medldm.planning import workloads
from medldm.planning.dry_run import DryRun
from medldm.planning.networks import PlannedNetworks, StageKnobs, assumed_conditioning, networks_of_bundle
from medldm.planning.plan import predict

N = 1000


def test_what_is_freed_does_not_count_twice() -> None:
    dry = DryRun()
    with dry.counting():
        x = torch.zeros(N)
        for _ in range(3):
            x = x + 1
    assert dry.peak_bytes == 2 * 4 * N


def test_views_and_work_in_place_take_nothing() -> None:
    dry = DryRun()
    with dry.counting():
        x = torch.zeros(N).view(10, 100)[3:].add_(1).t()
    assert x.shape == (100, 7)
    assert dry.peak_bytes == 4 * N


def test_a_training_step_counts_weights_gradients_optimiser_and_what_autograd_keeps() -> None:
    """One linear layer (N, N) on a vector: weight, gradient, and Adam's two averages are N^2 floats each.

    The step's own temporaries are the square root and the quotient by the correction: two more.
    """
    dry = DryRun()
    with dry.counting():
        layer = nn.Linear(N, N, bias=False)
        optimizer = torch.optim.AdamW(layer.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            layer(torch.zeros(1, N)).sum().backward()
            optimizer.step()
    assert dry.peak_bytes / (4 * N * N) == pytest.approx(4, abs=2.01)
    assert dry.peak_bytes >= 4 * 4 * N * N
    # Forward and the weight's gradient, two operations a multiply-add, twice.
    assert dry.operations == 2 * 2 * 2 * N * N


def test_no_value_is_computed_and_code_that_asks_for_one_goes_on() -> None:
    dry = DryRun()
    with dry.counting():
        x = torch.zeros(2**20, 2**20)
        answers = bool((x > 0).any()), float(x.sum()), (x[0, :2] > 0).tolist()
    assert answers == (False, 1.0, [False, False])
    assert dry.peak_bytes >= 4 * 2**40


def networks(**first: object) -> PlannedNetworks:
    found = networks_of_bundle(
        "medldm/bundles/mri_label_ldm",
        size=(24, 24, 24),
        autoencoder_knobs={"down_channels": [4, 8], "n_groups": 4, "n_res_blocks": 1},
        diffusion_knobs={
            "down_channels": [8, 16],
            "attention_levels": [False, True],
            "n_heads": 2,
            "n_groups": 4,
        },
    )
    return found.with_first(**first) if first else found


def peak(work, **options) -> int:
    return predict(work, device="cuda", **options).peak_bytes


def test_the_peak_grows_with_the_volume_and_falls_with_checkpoints() -> None:
    small = networks()
    large = replace(small, size=(96, 96, 96))
    whole = peak(workloads.train_autoencoder(large))
    assert whole > 2 * peak(workloads.train_autoencoder(small))
    assert peak(workloads.train_autoencoder(large.with_first(checkpointing=True))) < whole
    patches = large.with_first(patch_size=(24, 24, 24))
    assert peak(workloads.train_autoencoder(patches)) == peak(workloads.train_autoencoder(small))


def test_networks_of_a_bundle_take_its_knobs_and_name_unknown_ones() -> None:
    found = networks()
    assert found.autoencoder == VAEConfig(
        down_channels=(4, 8),
        n_groups=4,
        n_res_blocks=1,
        mid_attention=False,
        linear_path="lapped",
        latent_channels=16,
    )
    assert found.second == StageKnobs(batch_size=2, precision="auto")
    assert found.conditioning == assumed_conditioning(["label_map"])
    assert isinstance(found.unet, Config)
    with pytest.raises(
        ValueError, match=r"knob of the diffusion 'down_chanels'\. Did you mean 'down_channels'"
    ):
        networks_of_bundle("medldm/bundles/mri_label_ldm", diffusion_knobs={"down_chanels": [8]})
    with pytest.raises(ValueError, match="a plan needs a bundle made like mri_label_ldm"):
        networks_of_bundle("medldm/bundles/labelmap_ldm")
