"""Weights from a file go into the network they are of, or are refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet10, resnet18, resnet50
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from medldm.errors import CheckpointError
from medldm.evaluation.cases.sets import CaseSet, CaseSets, make_noise
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.features.network import load_feature_network, network_features, published_style
from medldm.evaluation.sections.comparison import Comparison
from medldm.evaluation.sections.feature_distances import feature_results

MAKERS = {"resnet10": resnet10, "resnet18": resnet18, "resnet50": resnet50}


def save_weights(path: Path, name: str = "resnet10", *, prefix: str = "module.", **options: Any) -> Any:
    torch.manual_seed(0)
    network = MAKERS[name](
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False, **options
    ).eval()
    save_file({prefix + key: value for key, value in network.state_dict().items()}, path)
    return network


@pytest.mark.parametrize(
    ("name", "prefix", "options"),
    [
        ("resnet10", "module.", {"bias_downsample": False}),
        ("resnet10", "", {"bias_downsample": True}),
        ("resnet18", "module.", {"shortcut_type": "A"}),
    ],
)
def test_features_are_those_of_the_network_in_the_file(
    name: str, prefix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    original = save_weights(path, name, prefix=prefix, **options)
    found = load_feature_network(path)
    assert (found.name, found.file_name) == (name, "weights.safetensors")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    volume = np.random.default_rng(0).normal(40, 7, (17, 16, 20))
    scaled = torch.from_numpy((volume - volume.mean()) / volume.std()).float()[None, None]
    with torch.no_grad():
        expected = original(scaled)[0].numpy()
    assert found.embed(volume) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found.embed(3 * volume - 5) == pytest.approx(found.embed(volume), rel=1e-3, abs=1e-4)
    assert not found.network.training


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = save_weights(path).state_dict()
    save_file({**weights, "fc.weight": torch.zeros(2, 512)}, path)
    with pytest.raises(CheckpointError, match=r"nearest network: resnet10.*1 surplus \['fc.weight'\]"):
        load_feature_network(path)
    save_file({**weights, "conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(CheckpointError, match=r"conv1.weight: \(64, 3, 7, 7\) in the file"):
        load_feature_network(path)
    save_file({key: value for key, value in weights.items() if key != "bn1.bias"}, path)
    with pytest.raises(CheckpointError, match=r"1 missing \['bn1.bias'\]"):
        load_feature_network(path)


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    for name in ("weights.pth", "missing.safetensors"):
        with pytest.raises(CheckpointError, match=r"pickled weights \(\.pth\) are not read"):
            load_feature_network(tmp_path / name)


def test_a_volume_that_the_network_would_halve_away_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="at least 16 along"):
        load_feature_network(tmp_path / "weights.safetensors").embed(np.ones((16, 15, 16)))


def make_sets(n: int = 40) -> CaseSets:
    generator = np.random.default_rng(0)

    def make() -> CaseSet:
        images = [gaussian_filter(generator.normal(size=(16, 16, 16)), 2) for _ in range(n)]
        return CaseSet(
            images=tuple(each.astype(np.float32) for each in images),
            labels=None,
            subjects=tuple(range(n)),
            file_spacing_mm=(1.0, 1.0, 1.0),
            file_range=(0.0, 1.0),
        )

    train, test, synthetic = make(), make(), make()
    return CaseSets(
        train=train,
        test=test,
        synthetic=synthetic,
        noise=make_noise(test, schema=None),
        schema=None,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(16, 16, 16),
        is_ct=False,
        issues=(),
    )


def test_figures_carry_the_file_and_put_noise_far(tmp_path: Path) -> None:
    path = tmp_path / "some_weights.safetensors"
    save_weights(path)
    network, sets = load_feature_network(path), make_sets()
    found = network_features(network, sets, cache=FeatureCache(tmp_path / "cache"))
    again = network_features(network, sets, cache=FeatureCache(tmp_path / "cache"))
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert len(list((tmp_path / "cache").iterdir())) == 160
    for figure in feature_results(Comparison(sets=sets, n_resamples=20, seed=0), found, network.kind):
        assert "some_weights.safetensors" in figure.description.title
        assert network.sha256 in figure.note and str(tmp_path) not in figure.note
        assert figure.synthetic is not None and figure.noise is not None
        assert abs(figure.synthetic.value) < 0.3 * figure.noise.value
    text = published_style(found, n_matched=40)
    assert "on all 512 features of 40 cases" in text
