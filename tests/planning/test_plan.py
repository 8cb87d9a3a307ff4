"""The choice of what fits, and what the command prints."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medldm.cli.main import main
from medldm.cli.plan import read_knobs
from medldm.planning import plan as planning
from medldm.planning import workloads
from medldm.planning.durations import training_seconds
from medldm.planning.networks import networks_of_bundle
from medldm.planning.plan import Budget, make_plan
from medldm.planning.report import report_plan

WORKS = (
    "train_autoencoder",
    "validate_autoencoder",
    "train_diffusion",
    "train_decoder",
    "encode_volume",
    "denoise",
    "decode",
)


@pytest.fixture
def simple(monkeypatch) -> None:
    """Put simple sums in the place of dry runs: 8 GB a sample, half with checkpoints, half in bfloat16."""

    def gigabytes(name, networks, *rest) -> float:
        if name == "decode" and rest and rest[0] is not None:
            return rest[0]
        knobs = {"train_autoencoder": networks.first, "train_diffusion": networks.second}.get(name)
        if name == "train_decoder":
            patch = networks.third.patch_size or networks.size
            return 1 + 4 * networks.third.batch_size * patch[0] / networks.size[0]
        if knobs is None:
            return 1.0
        saving = (0.5 if knobs.checkpointing else 1.0) * (0.5 if knobs.precision == "bfloat16" else 1.0)
        voxels = 1.0
        if knobs.patch_size is not None:
            voxels = knobs.patch_size[0] / networks.size[0]
        return 0.5 + 8 * knobs.batch_size * saving * voxels

    for name in WORKS:
        monkeypatch.setattr(
            planning.workloads, name, lambda networks, *rest, name=name: gigabytes(name, networks, *rest)
        )
    monkeypatch.setattr(
        planning,
        "predict",
        lambda work, device="cpu": SimpleNamespace(peak_bytes=int(work * 1e9), operations=8),
    )


def networks(batch: int = 4, **later):
    bundle = "medldm/bundles/mri_label_ldm"
    plain = {"precision": "float32"}
    return networks_of_bundle(
        bundle,
        size=(128, 128, 128),
        autoencoder_knobs=plain,
        diffusion_knobs={"batch_size": batch, **plain, **later},
    )


def memory(usable_gb: float) -> float:
    return (usable_gb * 1e9 * planning.MARGIN + planning.RUNTIME_BYTES) / 1e9


@pytest.mark.parametrize(
    ("usable", "device", "expected"),
    [
        (33, "cuda", (4, 1, "float32", False)),
        (17, "cuda", (2, 2, "float32", False)),
        (8.6, "cuda", (1, 4, "float32", False)),
        (5, "cuda", (1, 4, "float32", True)),
        (3, "cuda", (1, 4, "bfloat16", True)),
    ],
)
def test_the_way_that_changes_least_is_taken(simple, usable, device, expected) -> None:
    stage = make_plan(networks(), Budget(memory_gb=memory(usable), device=device)).diffusion
    knobs = stage.knobs
    assert stage.fits
    assert (knobs.batch_size, knobs.accumulation_steps, knobs.precision, knobs.checkpointing) == expected
    assert stage.largest_batch == expected[0]


def test_patches_are_the_last_resort_of_the_first_stage(simple) -> None:
    plan = make_plan(networks(), Budget(memory_gb=memory(2.0)))
    assert plan.autoencoder.knobs.patch_size == (96, 96, 96)
    assert plan.autoencoder.fits
    assert not plan.diffusion.fits
    text = report_plan(plan, networks(), seconds=None, assumptions=())
    assert '--precision bfloat16 --checkpointing true --patch_size "[96,96,96]"' in text
    assert "train_diffusion.yaml: does not fit" in text
    assert "give --tflops" in text


def test_a_decoder_that_does_not_fit_is_streamed(simple, monkeypatch) -> None:
    monkeypatch.setattr(
        planning.workloads, "decode", lambda networks, limit=None: limit or networks.size[0] / 10
    )
    plan = make_plan(networks(1), Budget(memory_gb=memory(9.0)))
    assert plan.max_memory_gb == pytest.approx(9.0 - 0.4, abs=0.01)
    assert f"--max_memory_gb {plan.max_memory_gb:g}" in report_plan(
        plan, networks(1), seconds=(60.0, 7300.0), assumptions=()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"memory_gb": 0}, "memory_gb is 0"), ({"memory_gb": 8, "device": "tpu"}, "device is 'tpu'")],
)
def test_impossible_budgets_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def test_knobs_are_read_as_in_a_bundle() -> None:
    assert read_knobs(["down_channels=[32, 64]", "precision=bfloat16"]) == {
        "down_channels": [32, 64],
        "precision": "bfloat16",
    }
    with pytest.raises(ValueError, match="no KNOB=VALUE"):
        read_knobs(["down_channels"])


@pytest.mark.slow
def test_the_command_plans_real_networks_without_a_run(capsys) -> None:
    command = (
        "plan --memory-gb 16 --tflops 20 --gpus 4 --cases 200 --size 24 24 24 --json "
        "--autoencoder down_channels=[4,8] n_groups=4 --diffusion down_channels=[8] attention_levels=[false] "
        "n_heads=2 n_groups=4 batch_size=1"
    )
    assert main(command.split()) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["autoencoder"]["fits"]
    assert plan["autoencoder"]["peak_bytes"] > plan["denoise_bytes"] > 0
    first = plan["autoencoder"]["operations_per_sample"] * 200 * 100 / (20e12 * 4)
    assert plan["training_seconds"][0] == pytest.approx(first)


def test_channels_are_planned_by_their_names() -> None:
    knobs = {"channels": ["t1n", "t2w"], "down_channels": [4, 8], "n_groups": 4}
    found = networks_of_bundle(
        "medldm/bundles/mri_label_ldm", size=(24, 24, 24), autoencoder_knobs={**knobs, "patch_size": None}
    )
    assert (found.autoencoder.in_channels, found.autoencoder.out_channels) == (2, 2)
    assert networks().autoencoder.in_channels == 1
    workloads.train_autoencoder(found)()


def test_precision_auto_is_that_of_the_device_and_no_option(simple) -> None:
    asked = networks().with_second(precision="auto", checkpointing=True)
    plan = make_plan(asked, Budget(memory_gb=memory(33), device="cuda"))
    assert plan.diffusion.knobs.precision == "bfloat16"
    assert "--precision" not in report_plan(plan, asked, seconds=None, assumptions=())


def test_a_length_in_steps_takes_as_long_as_its_epochs(simple) -> None:
    def seconds(**length):
        plan = make_plan(networks().with_second(**length), Budget(memory_gb=memory(33)))
        return training_seconds(plan, rate=1.0, n_cases=10)[1]

    assert seconds(n_steps=30) == seconds(n_epochs=10)  # ten cases in batches of four are three steps
    text = report_plan(
        make_plan(networks(), Budget(memory_gb=memory(33))), networks(), seconds=(1.0, 2.0), assumptions=()
    )
    assert "at most: autoencoder 1 s (20000 steps), diffusion 2 s (20000 steps)" in text


@pytest.mark.parametrize(
    ("usable", "batch", "patch", "said"),
    [
        (9.5, 2, None, ""),
        (5.5, 1, None, "--decoder_batch_size 1"),
        (4.5, 1, (96, 96, 96), '--decoder_batch_size 1 --decoder_patch_size "[96,96,96]"'),
        (1.5, 1, (32, 32, 32), "--decoder_steps 0"),
    ],
)
def test_the_decoder_takes_single_cases_or_patches_where_it_must(simple, usable, batch, patch, said) -> None:
    asked = networks(decoder_steps=30, decoder_batch_size=2)
    plan = make_plan(asked, Budget(memory_gb=memory(usable)))
    assert plan.decoder is not None and (plan.decoder.knobs.batch_size, plan.decoder.knobs.patch_size) == (
        batch,
        patch,
    )
    text = report_plan(plan, asked, seconds=None, assumptions=())
    assert "decoder, step" in text and "texture, a case" in text
    if plan.diffusion.fits:
        assert said in text
    assert ("--decoder" in text) == (said != "" and plan.diffusion.fits)
    assert make_plan(networks(), Budget(memory_gb=memory(usable))).decoder is None


def test_what_follows_the_training_takes_its_time(simple) -> None:
    def seconds(n_devices: int = 1, **later):
        budget = Budget(memory_gb=memory(33), n_devices=n_devices)
        return training_seconds(make_plan(networks(**later), budget), rate=1.0, n_cases=10)[2]

    # Every dry run has 8 operations, of two steps of the decoder's training or of one pass of a case.
    assert seconds(fit_texture=False) == 0
    assert seconds() == 16 * (8 + 8)
    assert seconds(fit_texture=False, decoder_steps=30) == 30 * 8 / 2
    assert seconds(fit_texture=False, decoder_steps=30, n_devices=3) == 10 * 8 / 2
    assert seconds(decoder_steps=30) == 30 * 8 / 2 + 16 * (8 + 4 * 8 + 8)


def test_a_texture_that_does_not_fit_is_left_out(simple, monkeypatch) -> None:
    monkeypatch.setattr(planning.workloads, "decode", lambda networks, limit=None: limit or 20.0)
    plan = make_plan(networks(1), Budget(memory_gb=memory(9.0)))
    assert plan.texture is not None and not plan.texture.fits
    assert "--fit_texture false" in report_plan(plan, networks(1), seconds=None, assumptions=())


def test_thick_slices_are_compressed_less_and_the_factors_are_printed(simple) -> None:
    def found(**knobs):
        bundle = "medldm/bundles/mri_label_ldm"
        return networks_of_bundle(bundle, size=(128, 128, 24), autoencoder_knobs=knobs)

    thick = found(spacing_mm=[0.4, 0.4, 5.0])
    assert thick.autoencoder.downsampling == (4, 4, 1)
    plan = make_plan(thick, Budget(memory_gb=memory(40)))
    assert 'train_autoencoder.yaml: --downsampling "[4,4,1]"' in report_plan(
        plan, thick, seconds=None, assumptions=()
    )
    assert found(spacing_mm=[1, 1, 1.2]).downsampling_choice is None
    given = found(spacing_mm=[0.4, 0.4, 5.0], downsampling=[4, 4, 2])
    assert given.autoencoder.downsampling == (4, 4, 2) and given.downsampling_choice is None


@pytest.mark.slow
def test_the_decoder_is_planned_by_its_own_training() -> None:
    knobs = {"down_channels": [4, 8], "n_groups": 4}
    small = {"down_channels": [8], "attention_levels": [False], "n_heads": 2, "n_groups": 4}

    def predicted(**later):
        asked = networks_of_bundle(
            "medldm/bundles/mri_label_ldm",
            size=(24, 24, 24),
            autoencoder_knobs=knobs,
            diffusion_knobs={**small, "decoder_steps": 5, **later},
        )
        return planning.predict(workloads.train_decoder(asked))

    one, two, three = (predicted(decoder_denoising_steps=n) for n in (1, 2, 3))
    assert two.operations - one.operations == three.operations - two.operations > 0
    pair = predicted(decoder_denoising_steps=1, decoder_batch_size=2)
    assert pair.operations == pytest.approx(2 * one.operations, rel=0.05)
    assert pair.peak_bytes > one.peak_bytes
