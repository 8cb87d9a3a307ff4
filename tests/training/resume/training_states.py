"""What a training has come to, and how two of them are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from medldm.training.resume.random_state import capture_random_state
from medldm.training.resume.state_tree import flatten_state


def everything(trainer) -> dict[str, Any]:
    """Return all tensors and plain values of a training's state, and the state of the generators."""
    tensors, plain = flatten_state({"parts": trainer.training_state(), "random": capture_random_state()})
    return {
        **tensors,
        "plain": json.dumps(plain),
        "history": history(trainer.state_handler.handlers[0].directory),
    }


def history(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name])
    ]


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(
        float((value - other[name]).abs().max())
        for name, value in one.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    )


def numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "stage"}
