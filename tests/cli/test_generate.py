"""`medldm generate` says the same to the sampler of images and to that of label maps."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from medldm.cli import generate
from medldm.generation import engine
from medldm.label_maps import generation
from medldm.sampling.config import SamplingConfig
from medldm.sharing import sources
from medldm.sharing.sources import GenerationSource

WORDS = ["model", "out", "--seed", "3", "--guidance-scale", "2", "--preset", "fast", "--num-steps", "7"]
WANTED = SamplingConfig(seed=3, guidance_scale=2.0, preset="fast", num_steps=7, texture=False)


class Asked(Exception):
    """Ends the command where it has said what it wants."""


@pytest.mark.parametrize("of_label_maps", [False, True], ids=["images", "label maps"])
def test_every_setting_reaches_the_sampler(of_label_maps, monkeypatch, tmp_path) -> None:
    def listen(*_: Any, sampling: SamplingConfig, **__: Any) -> None:
        raise Asked(sampling)

    source = GenerationSource(checkpoint=tmp_path / "model", makes_label_maps=of_label_maps)
    monkeypatch.setattr(sources, "find_source", lambda _: source)
    monkeypatch.setattr(engine, "set_up_generation", listen)
    monkeypatch.setattr(generation, "generate_label_maps", listen)
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    with pytest.raises(Asked) as asked:
        generate.run_command(parser.parse_args([*WORDS, "--texture", "false"]))
    assert asked.value.args == (WANTED,)
