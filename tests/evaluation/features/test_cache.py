"""A second evaluation of the same volumes computes nothing again; anything else does."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from medldm.errors import CheckpointError
from medldm.evaluation.cases.sets import CaseSet, CaseSets
from medldm.evaluation.features import extraction
from medldm.evaluation.features.cache import FeatureCache, Tensors, entry_key
from medldm.evaluation.features.contrastive import ContrastiveConfig
from medldm.evaluation.features.extraction import SetFeatures, extract_features

KEY = "0" * 64
CONFIG = ContrastiveConfig(size=(8, 8, 8), channels=(4, 4, 4, 4), n_steps=2)


class Counted:
    """A computation that counts how often it ran."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> Tensors:
        self.n += 1
        return {"features": torch.tensor([1.0, float(self.n)], dtype=torch.float64)}


def test_an_entry_is_computed_once_and_without_a_folder_always(tmp_path: Path) -> None:
    compute = Counted()
    for directory, n in ((tmp_path / "new" / "cache", 1), (None, 3)):
        results = [FeatureCache(directory).recall("a", KEY, compute)["features"] for _ in range(2)]
        assert compute.n == n
    assert torch.equal(results[0][:1], results[1][:1])
    assert [path.name for path in (tmp_path / "new" / "cache").iterdir()] == [f"a-{KEY}.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "renamed", "other kind", "refused"])
def test_a_wrong_entry_is_computed_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute, cache = Counted(), FeatureCache(tmp_path)
    cache.recall("a", KEY, compute)
    path = tmp_path / f"a-{KEY}.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "flipped bit":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage in ("renamed", "other kind"):
        cache.recall(*(("a", "1" * 64) if damage == "renamed" else ("b", KEY)), compute)
        other = next(each for each in tmp_path.iterdir() if each != path)
        other.replace(path)

    def check(entry: Tensors) -> None:
        if damage == "refused" and float(entry["features"][1]) == 1:
            raise CheckpointError("not of this form")

    n = compute.n
    with caplog.at_level(logging.WARNING):
        assert float(cache.recall("a", KEY, compute, check=check)["features"][1]) == n + 1
    assert "computed again" in caplog.text
    assert float(cache.recall("a", KEY, compute, check=check)["features"][1]) == n + 1


def test_a_folder_that_cannot_be_written_costs_the_entry_not_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert FeatureCache(tmp_path / "file" / "cache").recall("a", KEY, Counted())["features"][0] == 1
    assert "cannot be remembered" in caplog.text


def test_key_changes_with_volume_shape_type_order_and_settings() -> None:
    a, b = np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.ones((2, 2, 2), dtype=np.float32)
    keys = [
        entry_key([a, b], {"n": 1}),
        entry_key([b, a], {"n": 1}),
        entry_key([a, b], {"n": 2}),
        entry_key([a.reshape(4, 2, 1), b], {"n": 1}),
        entry_key([a.astype(np.float64), b], {"n": 1}),
        entry_key([a, np.nextafter(b, 2)], {"n": 1}),
    ]
    assert len(set(keys)) == len(keys)
    assert entry_key([a.copy(order="F"), b], {"n": 1}) == keys[0]


def test_a_row_that_is_not_finite_is_never_taken_from_the_folder(tmp_path: Path) -> None:
    cache, volume = FeatureCache(tmp_path), np.ones((2, 2, 2))
    assert np.isnan(cache.recall_row("a", volume, {}, lambda: [np.nan, 1.0])).any()
    assert cache.recall_row("a", volume, {}, lambda: [2.0, 1.0]).tolist() == [2.0, 1.0]
    assert cache.recall_row("a", volume, {}, lambda: [3.0, 1.0]).tolist() == [2.0, 1.0]
    assert cache.recall_row("a", volume, {"n": 1}, lambda: [3.0, 1.0]).tolist() == [3.0, 1.0]


def make_sets(*, seed: int = 0) -> CaseSets:
    generator = np.random.default_rng(seed)

    def make(n: int) -> CaseSet:
        return CaseSet(
            images=tuple(generator.uniform(size=(9, 10, 8)).astype(np.float32) for _ in range(n)),
            labels=None,
            subjects=tuple(range(n)),
            file_spacing_mm=(1.0, 1.0, 1.0),
            file_range=(0.0, 1.0),
        )

    return CaseSets(
        train=make(6),
        test=make(5),
        synthetic=make(5),
        noise=make(5),
        schema=None,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(9, 10, 8),
        is_ct=False,
        issues=(),
    )


def same(first: SetFeatures, second: SetFeatures) -> bool:
    assert first.contrastive is not None and second.contrastive is not None
    return all(
        np.array_equal(first.radiomics[name], second.radiomics[name])
        and np.array_equal(first.contrastive[name], second.contrastive[name])
        for name in first.radiomics
    )


def test_features_from_the_cache_are_bit_for_bit_those_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = make_sets()
    without = extract_features(sets, contrastive=CONFIG)
    first = extract_features(sets, contrastive=CONFIG, cache=FeatureCache(tmp_path))
    assert same(without, first)

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed although it is known")

    with monkeypatch.context() as patched:
        patched.setattr(extraction, "radiomics_features", fail)
        patched.setattr(extraction, "train_contrastive_encoder", fail)
        assert same(without, extract_features(sets, contrastive=CONFIG, cache=FeatureCache(tmp_path)))
        other = ContrastiveConfig.from_dict({**CONFIG.to_dict(), "seed": 1})
        with pytest.raises(AssertionError, match="computed although"):
            extract_features(sets, contrastive=other, cache=FeatureCache(tmp_path))
    kinds = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert kinds == ["contrastive", *["radiomics"] * 21]
