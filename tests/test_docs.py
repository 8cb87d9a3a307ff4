"""Every command and every Python block of the README and the bundles' pages is run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "bundles/mri_label_ldm/docs/README.md"]

# Small networks and short trainings in the place of real ones.
SMALL = {
    "train_autoencoder.yaml": (
        "--size [16,20,16] --down_channels [4,8] --n_groups 4 --n_epochs 1 --val_interval 1"
    ),
    "train_diffusion.yaml": (
        "--down_channels [8,16] --attention_levels [False,True] --n_heads 2 --n_groups 4 "
        "--n_epochs 1 --val_interval 1"
    ),
    "inference.yaml": "--num_steps 2",
}
# Run by other means: `make` and pip by the CI script, the demonstration by its own test.
ELSEWHERE = ("make ", "python -m venv", ".venv/bin/")


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def shorten(command: str) -> list[str]:
    """Split a command, add the knobs of a small run, and call this interpreter."""
    for name, knobs in SMALL.items():
        if "run --config_file" in command and name in command:
            command = f"{command} {knobs}"
    words = shlex.split(command)
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    return [sys.executable, "-m", "medldm.cli", *words[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_run_in_their_order(page: str, make_cohort, tmp_path) -> None:
    make_cohort(10, name="my_cohort")
    if page == "README.md":
        folder = tmp_path
        (tmp_path / "bundles").symlink_to(REPOSITORY / "bundles")
    else:
        folder = tmp_path / "bundle"
        folder.mkdir()
        for part in ("configs", "docs"):
            (folder / part).symlink_to(REPOSITORY / "bundles" / "mri_label_ldm" / part)
        (folder / "my_cohort").symlink_to(tmp_path / "my_cohort")
    found = commands(page)
    assert len(found) >= 4
    for command in found:
        result = subprocess.run(shorten(command), cwd=folder, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}\n{result.stderr[-3000:]}"
    assert len(list((folder / "outputs" / "synthetic" / "images").iterdir())) == 8


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


def test_links_point_to_files() -> None:
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert ((REPOSITORY / page).parent / target).exists(), f"{page} points to {target}"
