"""Structures that a label map does not cover: laws of the conditioner, and what a training draws."""

from __future__ import annotations

import pytest
import torch

from medldm.conditioning import ConditionEncoder, ConditioningConfig, Conditions
from medldm.conditioning.spatial_conditioners import hide_structures
from medldm.errors import ConfigError

STRUCTURES = {1: "a", 5: "b", 7: "c"}


def make_encoder(**options) -> ConditionEncoder:
    torch.manual_seed(0)
    config = ConditioningConfig(conditioning_type=["label_map"], structures=STRUCTURES, **options)
    return ConditionEncoder(config, downsampling=(2, 2, 2))


def make_maps(n: int = 2) -> torch.Tensor:
    return torch.randint(0, 4, (n, 1, 8, 6, 7), generator=torch.Generator().manual_seed(1))


def encode(encoder, maps, unknown=None) -> torch.Tensor:
    told = {} if unknown is None else {"label_map": torch.tensor(unknown)}
    conditions = Conditions({"label_map": maps}, unknown=told)
    return encoder(conditions, batch_size=len(maps), latent_size=(4, 3, 4)).spatial


def test_what_is_drawn_of_an_unknown_structure_has_no_effect() -> None:
    encoder = make_encoder(structure_dropout=0.5)
    maps, row = make_maps(), [[False, True, False]] * 2
    without = torch.where(maps == 2, 0, maps)
    assert torch.equal(encode(encoder, maps, row), encode(encoder, without, row))
    # The law is of the unknown one alone, and unknown is not background.
    assert not torch.allclose(
        encode(encoder, maps, row), encode(encoder, torch.where(maps == 1, 0, maps), row)
    )
    assert not torch.allclose(encode(encoder, without, row), encode(encoder, without))


def test_samples_of_a_batch_do_not_meet_and_saying_nothing_is_saying_known() -> None:
    encoder = make_encoder(partly_labelled=["b"])
    maps = make_maps()
    mixed = encode(encoder, maps, [[False, True, False], [False, False, False]])
    torch.testing.assert_close(mixed[:1], encode(encoder, maps[:1], [[False, True, False]]))
    torch.testing.assert_close(mixed[1:], encode(encoder, maps[1:]))


def test_a_model_of_whole_maps_has_the_weights_and_the_output_it_had() -> None:
    plain, aware = make_encoder(), make_encoder(structure_dropout=0.5)
    names = set(dict(aware.named_parameters())) - set(dict(plain.named_parameters()))
    assert names == {"conditioners.0.unknown"}
    aware.load_state_dict({**aware.state_dict(), **plain.state_dict()})
    assert torch.allclose(encode(plain, make_maps()), encode(aware, make_maps()))
    config = plain.config.to_dict()
    assert not {"partly_labelled", "structure_dropout"} & set(config)
    assert ConditioningConfig.from_dict(aware.config.to_dict()).may_be_unknown == ("a", "b", "c")


def test_hiding_leaves_the_other_structures() -> None:
    maps = make_maps()[:, 0]
    hidden = hide_structures(maps, torch.tensor([[True, False, True], [False, False, False]]))
    assert torch.equal(hidden[0], torch.where(maps[0] == 2, 2, 0))
    assert torch.equal(hidden[1], maps[1])


def test_a_training_draws_every_number_of_structures_as_often() -> None:
    encoder = make_encoder(structure_dropout=0.5)
    mask = encoder.draw_unknown(20_000, generator=torch.Generator().manual_seed(0))["label_map"]
    shares = torch.bincount(mask.sum(dim=1), minlength=4) / len(mask)
    # With u uniform, the number lost of K is uniform on 0..K.
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.125, 0.125, 0.125]), atol=0.01, rtol=0)


def test_without_dropout_nothing_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    assert make_encoder(partly_labelled=["b"]).draw_unknown(4, generator=generator) == {}
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_what_the_training_never_said_is_refused_by_name() -> None:
    conditions = Conditions(
        {"label_map": make_maps()}, unknown={"label_map": torch.tensor([[False, False, True]] * 2)}
    )
    for options, found in (({}, "none"), ({"partly_labelled": ["b"]}, r"\['b'\]")):
        with pytest.raises(ConfigError, match=rf"does not cover \['c'\].*{found}"):
            make_encoder(**options).check(conditions)
    make_encoder(structure_dropout=0.1).check(conditions)
    make_encoder(partly_labelled=["c"]).check(conditions)
    with pytest.raises(ConfigError, match="Unknown structure in partly_labelled 'd'"):
        ConditioningConfig(structures=STRUCTURES, partly_labelled=["d"])


def test_conditions_keep_what_is_unknown() -> None:
    mask = torch.tensor([[True, False, False], [False, False, False]])
    conditions = Conditions({"label_map": make_maps()}, unknown={"label_map": mask})
    more = conditions.hide({"label_map": torch.tensor([[False, True, False]] * 2)}).drop(
        {"label_map": mask[:, 0]}
    )
    assert more.unknown["label_map"].tolist() == [[True, True, False], [False, True, False]]
    assert more[1:].to("cpu").unknown["label_map"].tolist() == [[False, True, False]]
