"""The log and the checkpoint writer: what they keep over a stop, and what they do with NaN."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.training.handlers import TERMS, CheckpointWriter, TrainingLog


def make_log(folder: Path) -> tuple[TrainingLog, Engine]:
    """Return a log and an engine whose batches are its losses."""
    log, engine = TrainingLog(folder), Engine(lambda engine, batch: {TERMS: {"loss": torch.tensor(batch)}})
    log.attach(engine)
    return log, engine


def history(log: TrainingLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.history.read_text().splitlines()]


def test_means_are_of_the_finite_values_and_the_others_are_counted(tmp_path) -> None:
    log, engine = make_log(tmp_path)
    engine.run([1.0, float("nan"), 4.0, float("inf")])
    (line,) = history(log)
    assert line["loss"] == 2.5
    assert line["bad_batches"] == 2


def test_a_term_without_finite_values_is_left_out(tmp_path) -> None:
    log, engine = make_log(tmp_path)
    engine.run([float("nan")])
    assert "loss" not in history(log)[0]


def test_a_loaded_log_forgets_the_lines_after_its_state_and_keeps_the_epoch_under_way(tmp_path) -> None:
    log, engine = make_log(tmp_path)
    states: list[dict[str, Any]] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda _: states.append(log.state_dict()))
    engine.run([1.0, 3.0], max_epochs=3)
    assert len(history(log)) == 3
    other, _ = make_log(tmp_path)
    other.load_state_dict(json.loads(json.dumps(states[0])))
    assert [line["loss"] for line in history(other)] == [2.0]
    other._add(SimpleNamespace(state=SimpleNamespace(output={TERMS: {"loss": torch.tensor(5.0)}})))
    other._write_epoch(SimpleNamespace(state=SimpleNamespace(epoch=2)))
    assert history(other)[1]["loss"] == 3.0


@pytest.mark.parametrize(("larger_is_better", "kept"), [(True, 2.0), (False, 1.0)])
def test_a_loaded_writer_still_knows_the_best(tmp_path, larger_is_better, kept) -> None:
    evaluator = Engine(lambda engine, batch: None)
    weights = {"w": torch.zeros(1)}

    def make() -> CheckpointWriter:
        return CheckpointWriter(
            tmp_path,
            name="model",
            describe=lambda: (weights, {"kind": "test"}),
            evaluator=evaluator,
            metric="psnr",
            larger_is_better=larger_is_better,
        )

    def validate(writer: CheckpointWriter, value: float) -> None:
        weights["w"] = torch.tensor([value])
        evaluator.state.metrics = {"psnr": value}
        writer._save_best(evaluator, SimpleNamespace(state=SimpleNamespace(epoch=1, iteration=1)))

    first, second = make(), make()
    validate(first, 1.0 if not larger_is_better else 2.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    validate(second, 1.5)
    assert load_checkpoint(tmp_path / "model.safetensors").weights["w"].item() == kept
