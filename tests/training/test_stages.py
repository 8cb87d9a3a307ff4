"""Both stages on MONAI's engines: what is trained, validated and saved."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import Dataset as ListDataset
from torch.utils.data import DataLoader

from medldm import LatentDiffusionConfig, LatentDiffusionTrainer
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.model import make_autoencoder
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig, VAEConfig, VQVAEConfig
from medldm.training import (
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainingConfig,
    DenoisingTask,
    LatentDataset,
    RunConfig,
    average_weights,
    build_autoencoder_training,
    build_diffusion_training,
)

SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}
CPU = torch.device("cpu")


def volumes(n: int = 4) -> list[dict[str, torch.Tensor]]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 3, indexing="ij"))
    return [
        {"image": (2 * (grid.norm(dim=0, keepdim=True) < 0.4 + 0.1 * i) - 1).float(), "class": i % 3}
        for i in range(n)
    ]


def train_first_stage(config, tmp_path, *, epochs=2, val_interval=1, **options):
    torch.manual_seed(0)
    network = make_autoencoder(config)
    training = build_autoencoder_training(
        network,
        ListDataset(volumes()),
        validation_set=ListDataset(volumes(1)),
        loss=AutoencoderLoss(AutoencoderLossConfig(adversarial_start=2)),
        discriminator=PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1)),
        config=AutoencoderTrainingConfig(
            n_epochs=epochs,
            learning_rate=1e-2,
            discriminator_learning_rate=1e-3,
            warmup_steps=1,
            ema_decay=0.9,
            **options,
        ),
        run=RunConfig(output_dir=str(tmp_path), batch_size=2, val_interval=val_interval),
    )
    training.trainer.run()
    return network, training.trainer.average, training.evaluator


def history_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("config", [VAEConfig(**SMALL), VQVAEConfig(**SMALL)], ids=["vae", "vqvae"])
def test_first_stage_learns_and_saves_the_weights_it_validated(tmp_path, config) -> None:
    network, average, evaluator = train_first_stage(config, tmp_path, epochs=12)
    history = history_of(tmp_path / "logs" / "autoencoder")
    losses = [line["l1"] for line in history if line["stage"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    assert "discriminator" in history[-1] or "discriminator" in history[-2]
    last = load_checkpoint(tmp_path / "autoencoder_last.safetensors").weights
    averaged, trained = average.module.state_dict(), network.state_dict()
    assert all(torch.equal(last[name], averaged[name]) for name in last)
    assert any(not torch.equal(last[name], trained[name]) for name in last)
    volume = volumes(1)[0]["image"][None]
    error = ((average.module.eval().reconstruct(volume) - volume) / 2).square().mean()
    assert evaluator.state.metrics["psnr"] == pytest.approx(-10 * error.log10().item(), abs=1e-3)


def test_the_last_epoch_is_validated_and_saved_even_if_the_interval_leaves_it_out(tmp_path) -> None:
    train_first_stage(VAEConfig(**SMALL), tmp_path, epochs=1, val_interval=5)
    card = load_checkpoint(tmp_path / "autoencoder.safetensors").card
    assert card["training"]["epoch"] == 1
    recipe = {"n_steps": 2, "batch_size": 2, "learning_rate": 1e-2, "adversarial_start": 2}
    assert recipe.items() <= card["recipe"]["autoencoder"].items()


def test_first_stage_runs_in_bfloat16_with_accumulation(tmp_path) -> None:
    _, average, _ = train_first_stage(
        VAEConfig(**SMALL), tmp_path, precision="bfloat16", accumulation_steps=2
    )
    assert all(torch.isfinite(tensor).all() for tensor in average.module.state_dict().values())


def train_second_stage(make_model, tmp_path, *, n_epochs=2, **options):
    model = make_model(("class",))
    config = LatentDiffusionConfig(n_epochs=n_epochs, learning_rate=1e-3, ema_decay=0.9, **options)
    trainer = LatentDiffusionTrainer(model, config, output_dir=tmp_path, device="cpu", batch_size=2)
    path = trainer.train(DataLoader(volumes()), validation_loader=DataLoader(volumes(1)))
    return model, config, path


def test_autoencoder_stays_bit_identical_through_the_second_stage(make_model, tmp_path) -> None:
    before = {
        name: tensor.clone() for name, tensor in make_model(("class",)).autoencoder.state_dict().items()
    }
    model, _, _ = train_second_stage(make_model, tmp_path)
    after = model.autoencoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_second_stage_measures_the_latents_and_saves_them(make_model, tmp_path) -> None:
    model, _, path = train_second_stage(make_model, tmp_path)
    latents = torch.stack([model.encode(case["image"][None])[0] for case in volumes()])
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(3), atol=0.05)
    saved, _, _ = load_latent_diffusion(path)
    assert torch.equal(saved.latent_scale, model.latent_scale)
    assert not torch.allclose(saved.latent_scale, torch.full((3,), 0.18215))


def test_second_stage_learns(make_model, tmp_path) -> None:
    train_second_stage(make_model, tmp_path, n_epochs=30, prediction_type="v_prediction")
    history = history_of(tmp_path / "logs" / "diffusion")
    losses = [line["validation_loss"] for line in history if line["stage"] == "validation"]
    assert losses[-1] < 0.8 * losses[0]


def test_the_averaged_denoiser_is_the_one_validated_and_saved(make_model, tmp_path) -> None:
    model, config, _ = train_second_stage(make_model, tmp_path)
    last = load_checkpoint(tmp_path / "latent_diffusion_last.safetensors")
    own = {f"denoiser.{name}": tensor for name, tensor in model.denoiser.state_dict().items()}
    assert any(not torch.equal(last.weights[name], tensor) for name, tensor in own.items())
    saved, _, _ = load_latent_diffusion(last.path)
    history = history_of(tmp_path / "logs" / "diffusion")
    stated = [line["validation_loss"] for line in history if line["stage"] == "validation"][-1]
    assert validation_loss(saved, config) == pytest.approx(stated, rel=1e-4)
    assert validation_loss(model.eval(), config) != pytest.approx(stated, rel=1e-4)


def validation_loss(model, config) -> float:
    from medldm.training import DiffusionEvaluator, cache_latents

    loader = DataLoader(cache_latents(model, DataLoader(volumes(1))))
    average = average_weights(model.denoiser, 0.0)
    evaluator = DiffusionEvaluator(CPU, loader, network=model, config=config, average=average)
    evaluator.run()
    return float(evaluator.state.metrics["validation_loss"])


def test_the_same_seed_trains_the_same_weights(make_model, tmp_path) -> None:
    runs = [train_second_stage(make_model, tmp_path / str(seed), seed=seed)[0] for seed in (0, 0, 1)]
    weights = [run.denoiser.unet.conv_in.weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_perfect_denoiser_has_no_loss(make_model) -> None:
    """The loss compares with the target of the prediction type at the times drawn."""
    model = make_model(())
    for prediction_type in ("epsilon", "sample", "v_prediction"):
        task = DenoisingTask(model, LatentDiffusionConfig(prediction_type=prediction_type))
        x_0, noise, t = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4), torch.tensor([10, 900])
        alpha, sigma = (c.view(2, 1, 1, 1, 1).float() for c in task.path.alpha_sigma(t))
        target = {"epsilon": noise, "sample": x_0, "v_prediction": alpha * noise - sigma * x_0}[
            prediction_type
        ]
        times = []

        def oracle(x_t, timesteps, conditions, *, drop=None, answer=target, seen=times):
            seen.append(timesteps)
            return answer

        assert task.loss(oracle, x_0, None, t=t, noise=noise).max() < 1e-10
        assert times[0].tolist() == [9, 899]


def test_second_stage_refuses_volumes_in_place_of_latents(make_model) -> None:
    model = make_model(())
    with pytest.raises(TypeError, match="trains on a LatentDataset"):
        build_diffusion_training(
            model, ListDataset(volumes()), config=LatentDiffusionConfig(), run=RunConfig()
        )


def test_an_empty_cohort_is_refused(make_model) -> None:
    with pytest.raises(ValueError, match="no cases to encode"):
        build_diffusion_training(
            make_model(()), LatentDataset([]), config=LatentDiffusionConfig(), run=RunConfig()
        )


def test_the_model_and_the_config_must_name_the_same_autoencoder(make_model) -> None:
    with pytest.raises(ValueError, match="the model has a 'vae', but autoencoder_type is 'vqvae'"):
        LatentDiffusionTrainer(make_model(()), LatentDiffusionConfig(autoencoder_type="vqvae"))
