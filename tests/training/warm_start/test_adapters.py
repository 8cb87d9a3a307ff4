"""Low-rank adapters begin as the base, to the bit, and merge into plain weights."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.tiny_trainings import FIRST_STAGES, make_small_model
from medldm.conditioning import Conditions
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.networks.kernels.dispatch import plain_form
from medldm.seeds import seed_everything
from medldm.training.warm_start.adapters import LowRankUpdate, add_adapters, merge_adapters
from medldm.training.warm_start.freezing import freeze_parts
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after
from tests.training.warm_start.started import save_model
from tests.training.warm_start.test_started_training import second_stage


@pytest.fixture
def model():
    seed_everything(1)
    return make_small_model(FIRST_STAGES["vae"]).eval()


def predict(denoiser):
    generator = torch.Generator().manual_seed(4)
    x_t = torch.randn(2, 4, 4, 5, 3, generator=generator)
    with torch.no_grad():
        return denoiser(x_t, torch.tensor([1, 700]), Conditions({"class": torch.tensor([0, 2])}))


def shake(denoiser):
    generator = torch.Generator().manual_seed(5)
    for module in denoiser.modules():
        if isinstance(module, LowRankUpdate):
            module.up.data = 0.1 * torch.randn(module.up.shape, generator=generator)


def test_adapters_begin_as_the_base_to_the_bit(model) -> None:
    adapted = copy.deepcopy(model.denoiser)
    add_adapters(adapted, 2)
    with plain_form():
        assert torch.equal(predict(adapted), predict(model.denoiser))
    shake(adapted)
    assert (predict(adapted) - predict(model.denoiser)).abs().max() > 0.01


def test_merged_weights_are_those_of_a_network_without_adapters(model) -> None:
    adapted = copy.deepcopy(model.denoiser)
    add_adapters(adapted, 2)
    shake(adapted)
    wanted = predict(adapted)
    model.denoiser.load_state_dict(merge_adapters(adapted.state_dict()))
    assert torch.allclose(predict(model.denoiser), wanted, atol=1e-5)


def test_an_update_of_a_convolution_is_two_convolutions() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(6, 3, 3, 3, 3, generator=generator),
        torch.randn(1, 3, 5, 5, 5, generator=generator),
    )
    update = LowRankUpdate(weight, 2, generator=generator)
    update.up.data.normal_(generator=generator)
    conv = torch.nn.functional.conv3d
    with torch.no_grad():
        wanted = conv(conv(x, update.down.view(2, 3, 3, 3, 3)), update.up.view(6, 2, 1, 1, 1)) + conv(
            x, weight
        )
        assert torch.allclose(conv(x, update(weight)), wanted, atol=1e-4)


def test_only_adapters_and_the_ends_are_trained(model) -> None:
    freeze_parts(model.denoiser, ["level_0"])
    add_adapters(model.denoiser, 2, freeze=["level_0"])
    for name, weight in model.denoiser.named_parameters():
        inner = name.startswith(("unet.down", "unet.up", "unet.middle"))
        assert weight.requires_grad == (not inner or name.endswith((".0.up", ".0.down"))), name
    assert not any(
        "parametrizations" in name for name in dict(model.denoiser.unet.down[0].named_parameters())
    )


def test_a_training_leaves_the_base_and_saves_the_sum(model, tmp_path) -> None:
    path = save_model(model, tmp_path / "old.safetensors")
    straight = second_stage(tmp_path / "straight", path, adapter_rank=2, weight_decay=0.5)
    base = {name: value.clone() for name, value in straight.model.denoiser.state_dict().items()}
    straight.run()
    own = straight.model.denoiser.state_dict()
    assert all(torch.equal(own[name], base[name]) for name in own if name.endswith(".original"))
    saved, _, _ = load_latent_diffusion(tmp_path / "straight" / "latent_diffusion.safetensors")
    averaged = straight.average.module.eval()
    assert torch.allclose(predict(saved.denoiser), predict(averaged), atol=1e-5)
    assert not torch.equal(predict(saved.denoiser), predict(model.denoiser))
    names = load_checkpoint(path).weights.keys()
    assert load_checkpoint(tmp_path / "straight" / "latent_diffusion.safetensors").weights.keys() == names
    run_killed_after(second_stage(tmp_path / "killed", path, adapter_rank=2, weight_decay=0.5), 3)
    again = second_stage(tmp_path / "killed", path, adapter_rank=2, weight_decay=0.5)
    again.run()
    assert differences(everything(straight), everything(again)) == []


def test_adapters_of_nothing_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="adapter_rank is 2, but start_from is null"):
        second_stage(tmp_path, None, adapter_rank=2)
    with pytest.raises(ConfigError, match="adapter_rank"):
        second_stage(tmp_path, None, adapter_rank=0)
