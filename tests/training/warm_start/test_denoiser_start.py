"""A denoiser starts from another one: what it predicts says what was taken."""

from __future__ import annotations

import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.conditioning import Conditions
from medldm.errors import ConfigError
from medldm.training import choose_denoiser, plan_denoiser_start
from medldm.training.warm_start.spaces import describe_kinds
from medldm.transforms import IntensityMapping
from tests.training.warm_start.started import opened, plan_of, save_model


def shake(model, seed=7):
    """Give a model other random weights, those that start at zero included."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.denoiser.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


@pytest.fixture
def make(make_model):
    def build(types=("class", "label_map"), *, seed=7, **options):
        return shake(make_model(types, **options), seed)

    return build


def predict(model, labels=None, **values):
    """Predict for one case from fixed noise."""
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn((1, 3, 4, 5, 4), generator=generator)
    given = dict(values) if labels is None else {"label_map": labels, **values}
    with torch.no_grad():
        return model.denoiser(x_t, torch.tensor([500]), Conditions(given))


def random_labels(*indices):
    generator = torch.Generator().manual_seed(1)
    places = torch.randint(len(indices), (1, 1, 16, 20, 16), generator=generator)
    return torch.tensor(indices)[places]


def relabel(labels, table):
    return torch.tensor(table)[labels]


CLASS = {"class": torch.tensor([2])}


def test_the_same_conditions_take_every_weight_to_the_bit(make, tmp_path) -> None:
    old, new = make(), make(seed=8)
    shift, scale = new.latent_shift.clone(), new.latent_scale.clone()
    old.set_latent_statistics(torch.ones(3), torch.full((3,), 2.0))
    plan_of(save_model(old, tmp_path / "old.safetensors"), new).apply(new.denoiser)
    there = old.denoiser.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in new.denoiser.state_dict().items())
    assert torch.equal(new.latent_shift, shift) and torch.equal(new.latent_scale, scale)


def test_structures_in_another_order_take_their_own_rows(make, tmp_path) -> None:
    old, new = make(), make(structures={1: "core", 5: "shell"}, seed=8)
    plan_of(save_model(old, tmp_path / "old.safetensors"), new).apply(new.denoiser)
    labels = random_labels(0, 1, 2)
    assert torch.equal(predict(new, relabel(labels, [0, 2, 1]), **CLASS), predict(old, labels, **CLASS))
    assert not torch.equal(predict(new, labels, **CLASS), predict(old, labels, **CLASS))


def test_what_says_that_a_structure_is_unknown_goes_with_its_name(make, tmp_path) -> None:
    partly = {"structure_dropout": 0.2}
    old, new = make(**partly), make(structures={1: "core", 5: "shell"}, seed=8, **partly)
    plan_of(save_model(old, tmp_path / "old.safetensors"), new).apply(new.denoiser)
    rows = [model.denoiser.conditioning["label_map"].unknown for model in (new, old)]
    assert torch.equal(rows[0], rows[1].flip(0))
    whole = make(seed=8)
    plan_of(save_model(whole, tmp_path / "whole.safetensors"), new).apply(new.denoiser)
    labels = relabel(random_labels(0, 1, 2), [0, 2, 1])
    told = predict(new, labels, **CLASS)
    assert torch.allclose(told, predict(whole, random_labels(0, 1, 2), **CLASS), atol=1e-5)


def test_a_kind_of_intensity_may_stand_beside_other_fields() -> None:
    fields = {"kind": "ct_window", "dense_upper": 3071}
    assert describe_kinds(fields, ("image",)) == {"image": "ct_window"}
    assert describe_kinds({"t1n": "mr_percentile", "ct": fields}, ("ct", "t1n")) == {
        "ct": "ct_window",
        "t1n": "mr_percentile",
    }


def test_both_halves_of_a_structure_begin_as_their_parent(make, tmp_path) -> None:
    old, new = make(), make(structures={1: "left shell", 2: "right shell", 7: "kernel"}, seed=8)
    table = {"left shell": "shell", "right shell": "shell", "kernel": "core"}
    plan = plan_of(save_model(old, tmp_path / "old.safetensors"), new, names=table)
    plan.apply(new.denoiser)
    labels = random_labels(0, 1, 2, 3)
    assert torch.equal(predict(new, labels, **CLASS), predict(old, relabel(labels, [0, 1, 1, 2]), **CLASS))
    assert any(
        "left shell from shell, right shell from shell, kernel from core" in line for line in plan.lines
    )


def test_structures_that_a_map_may_not_cover_are_matched_by_name(make, tmp_path) -> None:
    old = make(structure_dropout=0.3)
    new = make(structures={1: "core", 2: "left shell", 5: "right shell"}, structure_dropout=0.3, seed=8)
    table = {"left shell": "shell", "right shell": "shell"}
    plan_of(save_model(old, tmp_path / "old.safetensors"), new, names=table).apply(new.denoiser)
    before, after = (model.denoiser.conditioning["label_map"].unknown for model in (old, new))
    assert torch.equal(after, before[[1, 0, 0]])


def test_a_new_structure_begins_anew_and_a_lost_one_is_named(make, tmp_path) -> None:
    old, new = make(), make(structures={1: "shell", 3: "vessel"}, seed=8)
    own = new.denoiser.conditioning["label_map"].embedding.weight[2].clone()
    plan = plan_of(save_model(old, tmp_path / "old.safetensors"), new)
    plan.apply(new.denoiser)
    labels = random_labels(0, 1)
    assert torch.equal(predict(new, labels, **CLASS), predict(old, labels, **CLASS))
    assert torch.equal(new.denoiser.conditioning["label_map"].embedding.weight[2], own)
    assert any("new: vessel; left out: core" in line for line in plan.lines)


@pytest.mark.parametrize("types", [("label_map", "class"), ("class", "label_map", "image")])
def test_a_new_spatial_condition_changes_nothing_at_first(make, tmp_path, types) -> None:
    image = {"image_intensity": IntensityMapping(kind="mr_percentile").to_dict()}
    old, new = make(("class",)), make(types, seed=8, **image)
    plan_of(save_model(old, tmp_path / "old.safetensors"), new).apply(new.denoiser)
    told = {**CLASS, **({"image": torch.zeros(1, 1, 16, 20, 16)} if "image" in types else {})}
    assert torch.allclose(predict(new, random_labels(0, 1, 2), **told), predict(old, **CLASS), atol=1e-5)


def test_conditions_in_another_order_are_found_by_name(make, tmp_path) -> None:
    image = {"image_intensity": IntensityMapping(kind="mr_percentile").to_dict()}
    old, new = make(("image", "label_map"), **image), make(("label_map", "image"), seed=8, **image)
    plan_of(save_model(old, tmp_path / "old.safetensors"), new).apply(new.denoiser)
    told = {"image": torch.linspace(-1, 1, 16 * 20 * 16).view(1, 1, 16, 20, 16)}
    labels = random_labels(0, 1, 2)
    assert torch.allclose(predict(new, labels, **told), predict(old, labels, **told), atol=1e-5)


def test_categories_and_columns_take_their_own_rows(make, tmp_path) -> None:
    described = {"num_classes": None, "classes": {"sex": ("F", "M")}}
    renamed = {"num_classes": None, "classes": {"gender": ("M", "F", "X")}}
    old, new = make(("class",), **described), make(("class",), seed=8, **renamed)
    plan_of(save_model(old, tmp_path / "old.safetensors"), new, names={"gender": "sex"}).apply(new.denoiser)
    for here, there in ((0, 1), (1, 0)):
        own = predict(new, gender=torch.tensor([here]))
        assert torch.equal(own, predict(old, sex=torch.tensor([there])))


def test_a_number_of_another_range_begins_anew(make, tmp_path) -> None:
    old = make(("label_map", "scalars"), scalars={"age": (20, 90)})
    path = save_model(old, tmp_path / "old.safetensors")
    same = plan_of(path, make(("label_map", "scalars"), seed=8, scalars={"age": (20, 90)}))
    other = plan_of(path, make(("label_map", "scalars"), seed=8, scalars={"age": (30, 80)}))
    name = "conditioning.conditioners.1.layers.0.weight"
    assert name in (same.values or {}) and name not in (other.values or {})
    assert any("trained on the range [20, 90], which is [30, 80] here" in line for line in other.lines)


def test_attention_begins_anew_where_tokens_are_new(make, tmp_path) -> None:
    new = make(("class", "label_map"), seed=8)
    plan = plan_of(save_model(make(("label_map",)), tmp_path / "old.safetensors"), new)
    assert not any(".attention." in name for name in plan.values or {})
    assert any("attention: begins anew" in line for line in plan.lines)


def test_another_autoencoder_is_said_plainly(make, tmp_path) -> None:
    path, new = save_model(make(), tmp_path / "old.safetensors"), make()
    assert not any("autoencoder" in line for line in plan_of(path, new).lines)
    new.autoencoder.decoder.conv_out.bias.data += 1
    assert any("trained on another one than this training's" in line for line in plan_of(path, new).lines)


def changed(model, **card):
    for name, value in card.items():
        setattr(model.space, name, value)
    return model


def test_what_would_mislead_is_refused_by_name(make, make_model, tmp_path) -> None:
    path = save_model(make(), tmp_path / "old.safetensors")
    ct = changed(make(seed=8), intensity=IntensityMapping(kind="ct_window"))
    with pytest.raises(ConfigError, match=r"ct_window of image here and mr_percentile in the checkpoint"):
        plan_of(path, ct)
    plan = plan_of(path, ct, allow_other_intensity="true")
    assert any("ct_window of image here" in line and "allowed" in line for line in plan.lines)
    with pytest.raises(
        ConfigError, match=r"prediction_type 'v_prediction', but this training's is 'epsilon'"
    ):
        plan_of(path, make(seed=8), config=LatentDiffusionConfig())
    maps = make(seed=8)
    maps.makes_label_maps = True
    with pytest.raises(ConfigError, match="a model of images, but this training is of label maps"):
        plan_of(path, maps)


def test_spacing_and_noise_are_said(make, tmp_path) -> None:
    path = save_model(make(), tmp_path / "old.safetensors")
    new = changed(make(seed=8), spacing_mm=(2.0, 1.0, 1.0))
    config = LatentDiffusionConfig(prediction_type="v_prediction", zero_terminal_snr=True)
    lines = plan_of(path, new, config=config).lines
    assert any(r"spacing: [2.0, 1.0, 1.0] mm here" in line for line in lines)
    assert any("noise path: another one" in line for line in lines)


def test_other_latents_and_other_networks_are_refused(make, tmp_path) -> None:
    from medldm import LatentDiffusionModel, LatentUNetConfig, VAEConfig

    old = make()
    path = save_model(old, tmp_path / "old.safetensors")
    small = VAEConfig(
        down_channels=(4, 8), n_groups=4, latent_channels=5, n_res_blocks=1, mid_attention=False
    )
    parts = {"conditioning_config": old.conditioning_config, "unet_config": old.unet_config}
    with pytest.raises(
        ConfigError, match=r"latent channels 5 here and 3 there; downsampling \(2, 2, 2\) here"
    ):
        plan_of(path, LatentDiffusionModel(autoencoder_config=small, **parts))
    parts["unet_config"] = old.unet_config.copy(n_heads=4)
    with pytest.raises(ConfigError, match=r"a denoiser of another architecture \(n_heads is 4 here and 2 in"):
        plan_of(path, LatentDiffusionModel(autoencoder_config=old.autoencoder_config, **parts))
    parts["unet_config"] = LatentUNetConfig(down_channels=(8, 24), n_groups=4, n_heads=2, n_res_blocks=1)
    with pytest.raises(ConfigError, match=r"down_channels is \[8, 24\] here and \[8, 16\] in the checkpoint"):
        plan_of(path, LatentDiffusionModel(autoencoder_config=old.autoencoder_config, **parts))


def test_a_size_left_open_is_that_of_the_checkpoint(make, tmp_path) -> None:
    old = make(("label_map",))  # no tokens, so that no context is pooled there
    start = opened(save_model(old, tmp_path / "old.safetensors"))
    found = choose_denoiser(
        cohort=None,
        autoencoder_path="",
        down_channels="auto",
        start=start,
        dropout=0.2,
        n_heads=2,
        pooled_context=True,
    )
    assert found.down_channels == (8, 16) and found.n_groups == 4 and found.n_res_blocks == (1, 1)
    assert found.dropout == 0.2


def test_names_that_neither_side_knows_are_refused(make, tmp_path) -> None:
    path = save_model(make(), tmp_path / "old.safetensors")
    with pytest.raises(ConfigError, match=r"Unknown name of this training 'shel'\. Did you mean 'shell'"):
        plan_of(path, make(), names={"shel": "core"})
    with pytest.raises(ConfigError, match=r"Unknown name of the checkpoint 'cord'\. Did you mean 'core'"):
        plan_of(path, make(), names={"shell": "cord"})


def test_weights_that_are_not_finite_are_refused(make, tmp_path) -> None:
    old = make()
    old.denoiser.unet.conv_out.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"not finite, such as unet\.conv_out\.bias"):
        plan_of(save_model(old, tmp_path / "old.safetensors"), make())


def test_nothing_is_planned_for_a_training_from_nothing(make) -> None:
    assert plan_denoiser_start(None, make(), config=LatentDiffusionConfig()) is None
