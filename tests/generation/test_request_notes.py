"""What is used again, and what is left out, is said before anything is drawn."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from medldm import LatentDiffusionConfig
from medldm.cli.main import main
from medldm.generation.engine import SamplingConfig, generate, set_up_generation
from medldm.generation.request_notes import note_geometry, note_missing, note_turns, require_label_maps
from medldm.generation.requests import GenerationDataset
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.transforms import IntensityMapping

FEW = SamplingConfig(num_steps=1, seed=3)


@pytest.mark.parametrize(
    ("n_volumes", "n_maps", "text", "is_warning"),
    [
        (8, 1, "8 volumes of 1 label map: each is used 8 times", True),
        (8, 4, "8 volumes of 4 label maps: each is used 2 times", True),
        (8, 3, "8 volumes of 3 label maps: 2 are used 3 times, 1 is used 2 times", True),
        (5, 4, "5 volumes of 4 label maps: 1 is used 2 times, 3 are used once", True),
        (2, 5, "2 of 5 label maps are used, one for each volume asked for", False),
    ],
)
@pytest.mark.parametrize("first_index", [0, 3])
def test_how_often_each_map_is_used_is_said(n_volumes, n_maps, text, is_warning, first_index) -> None:
    labels = [f"{n}.nii.gz" for n in range(n_maps)]
    (note,) = GenerationDataset(num_samples=n_volumes, first_index=first_index, labels=labels).notes()
    assert note.text.split(";")[0] == text
    assert note.is_warning is is_warning
    offers = ("label_dir", "labels: synthetic", "labels: training", "trained on", "fewer")
    assert all(offer in note.text for offer in offers) is is_warning


def test_one_volume_of_each_needs_no_word() -> None:
    labels = ["a", "b"]
    assert GenerationDataset(num_samples=None, labels=labels).notes() == []
    assert GenerationDataset(num_samples=2, first_index=7, labels=labels).notes() == []
    assert GenerationDataset(num_samples=3).notes() == []


def test_a_map_that_is_listed_twice_is_one_map() -> None:
    (note,) = GenerationDataset(num_samples=None, labels=["a", "a"]).notes()
    assert note.text.startswith("2 volumes of 1 label map: each is used 2 times")


def test_lists_of_conditions_and_images_are_counted_and_one_for_all_is_not() -> None:
    ages = [{"age": 50}, {"age": 60}]
    (note,) = GenerationDataset(num_samples=5, conditions=ages).notes()
    assert note.text == "5 volumes of 2 entries of conditions: 1 is used 3 times, 1 is used 2 times"
    assert GenerationDataset(num_samples=5, conditions={"age": 50}).notes() == []
    (note,) = GenerationDataset(num_samples=5, conditions={"image": "a.nii.gz"}).notes()
    assert note.text == "5 volumes of 1 condition image: each is used 5 times"
    (left,) = GenerationDataset(num_samples=1, conditions=ages).notes()
    assert left.text.startswith("1 of 2 entries of conditions are used") and not left.is_warning


def test_a_json_file_of_one_mapping_is_one_for_all(tmp_path) -> None:
    (tmp_path / "c.json").write_text('{"age": 50}')
    assert GenerationDataset(num_samples=4, conditions=tmp_path / "c.json").notes() == []


def test_nothing_used_is_nothing_said() -> None:
    assert note_turns([], n_given=0, noun="label map") == []


def test_conditions_left_at_their_null_are_named_in_one_line() -> None:
    requests = [{"conditions": {"age": 50}}, {"conditions": {}}, {"conditions": {"age": 60}}]
    (note,) = note_missing(requests, ("age", "sex", "label_map"))
    assert "age (for 1 of 3 volumes), sex" in note.text and note.is_warning
    assert note_missing(requests, ("label_map",)) == []
    assert note_missing([requests[0]], ("age",)) == []


def test_a_model_of_label_maps_wants_them_or_a_word() -> None:
    with_map, without = {"label": "a", "conditions": {}}, {"conditions": {}}
    assert require_label_maps([with_map], ("label_map",), unconditional=False) == []
    with pytest.raises(ValueError, match=r"1 of 2 volumes have none: .*--label-dir.*--unconditional"):
        require_label_maps([with_map, without], ("label_map",), unconditional=False)
    (note,) = require_label_maps([without], ("label_map",), unconditional=True)
    assert "unlabelled cohort" in note.text
    with pytest.raises(ValueError, match="unconditional is true and label maps are given"):
        require_label_maps([with_map], ("label_map",), unconditional=True)
    assert require_label_maps([without], ("age",), unconditional=False) == []
    with pytest.raises(ValueError, match="1 label maps are given and the model was trained without"):
        require_label_maps([with_map], ("age",), unconditional=False)


def save_model(make_model, folder: Path, types: tuple[str, ...], **options) -> Path:
    path = folder / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(types, **options), LatentDiffusionConfig())())
    return path


def test_repetition_is_in_the_log_the_result_and_each_sidecar(
    make_model, make_cohort, tmp_path, caplog, capsys
) -> None:
    path, labels = save_model(make_model, tmp_path, ("label_map",)), make_cohort(1) / "labels"
    arguments = ["generate", str(path), str(tmp_path / "out"), "--label-dir", str(labels)]
    assert main([*arguments, "--num-samples", "2", "--num-steps", "1"]) == 0
    text = "2 volumes of 1 label map: each is used 2 times"
    assert text in caplog.text
    assert f"warning: {text}" in capsys.readouterr().out
    for index in range(2):
        sidecar = json.loads((tmp_path / "out" / "sidecars" / f"synthetic_{index:04d}.json").read_text())
        assert sidecar["notes"][0].startswith(text)
        assert "case_0" not in json.dumps(sidecar)


def test_no_label_maps_are_refused_before_anything_is_written(make_model, tmp_path, capsys) -> None:
    path, output = save_model(make_model, tmp_path, ("label_map", "class")), tmp_path / "out"
    with pytest.raises(ValueError, match=r"label_dir, --label-dir.*unconditional: true, --unconditional"):
        generate(path, output, num_samples=1, sampling=FEW)
    assert main(["generate", str(path), str(output), "--num-samples", "1"]) == 1
    assert "--unconditional" in capsys.readouterr().err
    assert not output.exists()


def test_unlabelled_on_purpose_is_said_and_sound(make_model, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    path, output = save_model(make_model, tmp_path, ("label_map", "class")), tmp_path / "out"
    arguments = ["generate", str(path), str(output), "--num-samples", "2", "--num-steps", "1"]
    assert main([*arguments, "--unconditional"]) == 0
    out = capsys.readouterr().out
    assert "the output is an unlabelled cohort" in out
    assert "warning: not given, and left at what the model learned for an unknown value: class" in out
    assert not (output / "labels").exists() and not (output / "labels.json").exists()
    assert main(["check", str(output)]) == 0


def test_label_maps_for_a_model_without_are_refused(make_model, make_cohort, tmp_path) -> None:
    path = save_model(make_model, tmp_path, ("class",))
    with pytest.raises(ValueError, match="the model was trained without: leave out label_dir"):
        generate(path, tmp_path / "out", label_dir=str(make_cohort(1) / "labels"), sampling=FEW)


def test_the_engine_is_set_up_without_drawing(make_model, tmp_path, caplog) -> None:
    path = save_model(make_model, tmp_path, ("class",))
    with caplog.at_level(logging.WARNING):
        evaluator = set_up_generation(path, tmp_path / "out", num_samples=2, sampling=FEW)
    assert [note.is_warning for note in evaluator.notes] == [True]
    assert evaluator.written == [] and not (tmp_path / "out").exists()


def test_files_of_the_system_are_no_label_maps(make_model, make_cohort, tmp_path) -> None:
    labels = make_cohort(1) / "labels"
    (labels / "._case_0.nii.gz").write_bytes(b"Mac OS X")
    (labels / ".DS_Store").write_bytes(b"x")
    path = save_model(make_model, tmp_path, ("label_map",))
    assert len(generate(path, tmp_path / "out", label_dir=labels, sampling=FEW)) == 1


@pytest.mark.parametrize(
    ("spacing", "size", "words"),
    [
        ((1.0, 1.0, 1.0), (16, 20, 16), []),
        ((1.4, 1.0, 0.7), (10, 20, 16), []),
        ((1.0, 1.0, 1.0), (17, 21, 17), []),
        ((1.0, 1.0, 1.0), (16, 20, 18), ["reach beyond the field of view"]),
        ((1.0, 1.6, 1.0), (16, 10, 16), ["another spacing"]),
        ((0.6, 1.0, 1.0), (16, 20, 16), ["another spacing"]),
        ((2.0, 2.0, 2.0), (16, 20, 16), ["reach beyond the field of view", "another spacing"]),
    ],
)
def test_label_maps_outside_of_the_training_are_said(spacing, size, words) -> None:
    space = VolumeSpace(spacing_mm=(1, 1, 1), size=(16, 20, 16), intensity=IntensityMapping(kind="ct_window"))
    inside = ((1.0, 1.0, 1.0), (16, 20, 16))
    notes = note_geometry([inside, (spacing, size)], space)
    assert len(notes) == len(words) and all(note.is_warning for note in notes)
    for note, word in zip(notes, words, strict=True):
        assert note.text.startswith(f"1 of 2 label maps {'have ' if 'spacing' in word else ''}{word}")
