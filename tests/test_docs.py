"""The pages hold what they promise: commands and Python blocks run, names and links resolve."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch.utils.data import DataLoader

from medldm.cli.main import COMMANDS
from tests.programs import run_python

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLES = {f"bundles/{name}/docs/README.md": name for name in ("mri_label_ldm", "ct_label_ldm")}
TUTORIAL = "docs/tutorials/first_cohort.md"
# In an order in which each page finds what the pages before it have made.
HOW_TO = [
    f"docs/how-to/{name}.md"
    for name in (
        "dicom",
        "plan",
        "cohorts",
        "linear_path",
        "foreign_files",
        "train_length",
        "conditions",
        "warm_start",
        "generate",
        "evaluate",
        "export",
        "share",
    )
]
# The commands and Python blocks of these pages are run by tests of their own.
EDITING, COHORTS = "docs/how-to/edit.md", "docs/how-to/cohorts.md"
CHANNELS = "docs/how-to/channels.md"
IMPORTING = "docs/how-to/import_weights.md"
# By tests/bundles/test_labelmap_ldm.py, which looks at all that they leave.
LABEL_MAPS = "bundles/labelmap_ldm/docs/README.md"
PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for path in [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("bundles/*/docs/*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
    ]
    if not path.is_symlink() and path.name != "CHANGELOG.md"
)

# Small networks and short trainings in the place of real ones.
SMALL = {
    "train_autoencoder.yaml": (
        "--size [16,20,16] --down_channels [4,8] --n_groups 4 --n_epochs 1 --val_interval 1"
    ),
    "train_diffusion.yaml": (
        "--down_channels [8,16] --attention_levels [False,True] --n_heads 2 --n_groups 4 "
        "--n_epochs 1 --val_interval 1 --augmentation_copies 2"
    ),
    "inference.yaml": "--num_steps 2",
    "evaluate.yaml": "--time_budget_s 0 --encoder_steps 2",
}
SMALL_PLAN = (
    "--autoencoder down_channels=[4,8] n_groups=4 n_res_blocks=1 "
    "--diffusion down_channels=[8] attention_levels=[False] n_heads=2 n_groups=4"
)
# Run by other means: `make` and pip by the CI script, the demonstration by its own test.
ELSEWHERE = ("make ", "python -m venv", ".venv/bin/")


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def shorten(command: str) -> list[str]:
    """Split a command, set the knobs of a small run, and return what follows `python`."""
    words = shlex.split(command)
    for name, knobs in SMALL.items():
        if "--config_file" in words and name in words[words.index("--config_file") + 1]:
            for knob, value in zip(*[iter(knobs.split())] * 2, strict=True):
                if knob == "--n_epochs" and "--n_steps" in words:
                    knob = "--n_steps"  # both together are an error
                if knob in words:
                    words[words.index(knob) + 1] = value
                else:
                    words += [knob, value]
    words = [word.replace("n_subjects=24", "n_subjects=12") for word in words]
    if words[:2] == ["medldm", "plan"]:
        words += SMALL_PLAN.split()
    if words[0] == "python":
        return words[1:]
    return ["-m", "medldm.cli", *words[1:]]


def run_page(page: str, folder: Path) -> None:
    """Run the commands of a page one after the other, in a folder."""
    for command in commands(page):
        result = run_python(shorten(command), cwd=folder)
        # Three subjects are too few for some figures of a report; it says so and ends with 3.
        allowed = (0, 3) if "evaluate" in command else (0,)
        assert result.returncode in allowed, f"{command}\n{result.stdout[-1000:]}\n{result.stderr[-3000:]}"
        assert result.stdout or result.stderr or "python -c" in command, f"{command} said nothing"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which `bundles` is what it is in the repository."""
    (tmp_path / "bundles").symlink_to(REPOSITORY / "bundles")
    return tmp_path


@pytest.mark.slow
def test_commands_of_the_readme_run(make_cohort: Callable[..., Path], checkout: Path) -> None:
    make_cohort(10, name="my_cohort")
    assert len(commands("README.md")) == 4
    run_page("README.md", checkout)
    assert len(list((checkout / "outputs" / "synthetic" / "images").iterdir())) == 8


@pytest.mark.slow
@pytest.mark.parametrize("page", BUNDLES)
def test_commands_of_a_bundle_run_in_its_folder(
    page: str, make_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    make_cohort(10, name="my_cohort").rename(tmp_path / "cohort")
    folder = tmp_path / "bundle"
    folder.mkdir()
    for part in ("configs", "docs"):
        (folder / part).symlink_to(REPOSITORY / "bundles" / BUNDLES[page] / part)
    (folder / "my_cohort").symlink_to(tmp_path / "cohort")
    assert len(commands(page)) >= 5
    run_page(page, folder)
    assert len(list((folder / "outputs" / "synthetic" / "labels").iterdir())) == 8


@pytest.mark.slow
def test_the_tutorial_leads_to_a_report(checkout: Path) -> None:
    pytest.importorskip("nilearn")
    assert len(commands(TUTORIAL)) == 6
    run_page(TUTORIAL, checkout)
    assert len(list((checkout / "outputs" / "synthetic" / "images").iterdir())) == 8
    assert (checkout / "outputs" / "evaluation" / "report.html").exists()


@pytest.mark.slow
def test_commands_of_the_how_to_pages_run(
    make_cohort: Callable[..., Path], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(checkout / "config"))
    make_cohort(10, name="my_cohort")
    make_cohort(2, name="studies")
    (checkout / "studies" / "labels.json").unlink()
    (checkout / "subjects.csv").write_text("source,age\ncase_0,61\ncase_1,35\n")
    for page in HOW_TO:
        assert commands(page), page
        run_page(page, checkout)
    assert len(list((checkout / "outputs" / "synthetic" / "images").iterdir())) == 2
    assert len(list((checkout / "cohort" / "images").iterdir())) == 2
    assert (checkout / "outputs" / "evaluation" / "report.html").exists()


@pytest.mark.slow
def test_commands_of_the_page_on_several_contrasts_run(
    make_cohort: Callable[..., Path], checkout: Path
) -> None:
    make_cohort(10, name="my_contrasts", channels=("t1n", "t2w"))
    assert len(commands(CHANNELS)) == 6
    run_page(CHANNELS, checkout)
    names = sorted(file.name for file in (checkout / "synthetic_contrasts" / "images").iterdir())
    assert names[:2] == ["synthetic_0000_t1n.nii.gz", "synthetic_0000_t2w.nii.gz"] and len(names) == 4
    report = checkout / "outputs_contrasts" / "evaluation" / "channels" / "t2w" / "report.html"
    assert report.exists()


@pytest.mark.slow
def test_commands_of_the_page_on_foreign_weights_run(
    make_cohort: Callable[..., Path], checkout: Path
) -> None:
    """A whole stage 2 on MAISI's autoencoder, whose licence follows its weights."""
    make_cohort(10, name="my_cohort")
    torch.manual_seed(0)
    levels = {"num_channels": (32, 32), "num_res_blocks": (1, 1), "attention_levels": (False, False)}
    network = AutoencoderKlMaisi(spatial_dims=3, in_channels=1, out_channels=1, latent_channels=4, **levels)
    torch.save({"epoch": 1, "autoencoder_state_dict": network.state_dict()}, checkout / "autoencoder.pt")
    assert len(commands(IMPORTING)) == 3
    run_page(IMPORTING, checkout)
    sidecars = sorted((checkout / "generated").rglob("synthetic_*.json"))
    assert len(sidecars) == 2
    assert all("of the weights, in words" in path.read_text() for path in sidecars)


def test_every_page_with_commands_or_python_is_run() -> None:
    run = {"README.md", TUTORIAL, EDITING, CHANNELS, IMPORTING, LABEL_MAPS, *HOW_TO, *BUNDLES}
    assert {page for page in PAGES if blocks(page, "bash")} == run
    assert {page for page in PAGES if blocks(page, "python")} == {"README.md", EDITING, COHORTS}


@pytest.mark.slow
def test_python_example_runs_with_small_networks(tmp_path, monkeypatch) -> None:
    from medldm import VAE, VAEConfig
    from medldm.latent_diffusion.checkpoints import save_checkpoint
    from medldm.latent_diffusion.model_files import describe_autoencoder

    (code,) = blocks("README.md", "python")
    for large, small in (
        ("[64, 128, 256, 512]", "[4, 8, 8, 8]"),
        ("[512, 256, 128, 64]", "[8, 8, 8, 4]"),
        ("n_groups=32", "n_groups=4"),
        ("LatentUNetConfig()", "LatentUNetConfig(down_channels=[8, 16], n_groups=4, n_heads=2)"),
        ("n_epochs=100", "n_epochs=1"),
        ("(4, 4, 16, 64, 64)", "(4, 4, 2, 3, 4)"),
        ("num_steps=50", "num_steps=2"),
    ):
        assert large in code
        code = code.replace(large, small)
    config = VAEConfig(down_channels=[4, 8, 8, 8], latent_channels=4, n_groups=4)
    save_checkpoint(tmp_path / "trained_vae.safetensors", *describe_autoencoder(VAE(config), None)())
    cases = [{"image": torch.rand(1, 16, 16, 16), "text": torch.randn(7, 512), "class": i} for i in range(2)]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"data_loader": DataLoader(cases)}
    exec(compile(code, "README.md", "exec"), names)
    assert names["volumes"].shape == (4, 1, 16, 24, 32)  # type: ignore[attr-defined]


def written_commands(page: str) -> list[str]:
    """All command lines in the blocks of a page, those that no test runs among them."""
    lines = "\n".join([*blocks(page, "bash"), *blocks(page, "text")]).replace("\\\n", " ").splitlines()
    return [line.split(" | ")[0].removesuffix(" &") for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_options_of_written_commands_exist(page: str) -> None:
    for line in written_commands(page):
        if line.startswith("medldm ") and not line.startswith("medldm run"):
            _, name, *arguments = shlex.split(line)
            parser = argparse.ArgumentParser()
            COMMANDS[name].add_arguments(parser)
            if name == "train":  # knobs of the bundle are left over
                parser.parse_known_args(arguments)
                continue
            parser.parse_args(arguments)
        elif "run --config_file" in line:
            files = re.findall(r"configs/(\w+\.yaml)", line)
            named = (name for name in ("labelmap_ldm", "ct_label_ldm") if name in page + line)
            bundle = REPOSITORY / "bundles" / next(named, "mri_label_ldm")
            keys = "\n".join((bundle / "configs" / name).read_text(encoding="utf-8") for name in files)
            options = set(re.findall(r"(?<= --)\w+", line.split(" run ", 1)[1]))
            unknown = {name for name in options if not re.search(rf"^{name}:", keys, flags=re.MULTILINE)}
            assert unknown <= {"config_file", "meta_file"}, line


def test_links_point_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", read(page)):
            assert ((REPOSITORY / page).parent / target).exists(), f"{page} points to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    roots = "medldm|transforms|bundles|benchmarks|tests|docs"
    for name in re.findall(rf"(?<![\w./-])((?:{roots})/[\w./-]+\.(?:py|yaml|md|json|png))\b", read(page)):
        folders = [REPOSITORY, (REPOSITORY / page).parents[1]]
        assert any((folder / name).exists() for folder in folders), f"{page} names {name}"


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_on_a_page_exist(page: str) -> None:
    text = read(page)
    names = re.findall(r"(?<!\.)\bmedldm(?:\.[A-Za-z_]\w*)+", text)  # not the file `.medldm.lock`
    for module, imported in re.findall(r"from (medldm[\w.]*) import (\([^)]*\)|[^;\n\"]*)", text):
        names += [f"{module}.{name}" for name in re.findall(r"\w+", imported.split("#")[0])]
    for file, name in re.findall(r"`((?:medldm|transforms)/[\w/]+)\.py:([\w.]+)`", text):
        names.append(f"medldm.{file.removeprefix('medldm/').replace('/', '.')}.{name}")
    for name in sorted(set(names)):
        assert resolves(name), f"{page} names {name}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


def test_every_room_has_a_page_of_reference() -> None:
    pages = "\n".join(read(page) for page in PAGES if page.startswith("docs/reference/"))
    described = set(re.findall(r"^::: medldm\.(\w+)$", pages, flags=re.MULTILINE))
    rooms = {path.parent.name for path in (REPOSITORY / "medldm").glob("*/__init__.py")}
    assert rooms - described == {"cli"}
