"""What several processes share: the rows of a batch, its noise, and sums with their gradient."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from medldm.runtime.batch_shard import BatchShard, whole_batch
from medldm.runtime.distributed import (
    all_reduce_any,
    all_reduce_max,
    all_reduce_sum,
    broadcast_from_first,
    gather_rows,
    init_distributed,
    items_of_rank,
    require_distributed,
    shard_batch,
)
from medldm.training import ValidationBatches
from medldm.training.batches import TrainingBatches, shard_of_batch
from medldm.training.case_order import EpochSampler
from tests.rank_processes import run_on_ranks


def stand_at(monkeypatch: pytest.MonkeyPatch, rank: int, n: int) -> None:
    """Let this process believe to be one of n."""
    for module in ("medldm.runtime.distributed", "medldm.training.batches"):
        monkeypatch.setattr(f"{module}.world_size", lambda: n)
        monkeypatch.setattr(f"{module}.rank", lambda: rank)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [1, 2, 5, 16])
def test_shares_partition_a_batch_and_their_weights_give_its_mean(monkeypatch, n, total) -> None:
    values, rows, mean = torch.arange(total).double(), [], 0.0
    for rank in range(n):
        stand_at(monkeypatch, rank, n)
        shard = shard_batch(total)
        own = shard.own(values)
        assert len(own) == shard.stop - shard.start <= math.ceil(total / n)
        rows += [] if shard.is_stand_in else own.tolist()
        mean += float(own.mean()) * shard.weight / n
    assert rows == values.tolist()
    assert mean == pytest.approx(float(values.mean()))


def test_each_process_has_its_rows_of_the_noise_that_one_process_draws(monkeypatch) -> None:
    drawn = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(4))
    rows = []
    for rank in range(2):
        stand_at(monkeypatch, rank, 2)
        shard = shard_batch(5)
        like = torch.zeros(shard.stop - shard.start, 2, 3)
        rows.append(shard.draw_normal(like, generator=torch.Generator().manual_seed(4)))
    assert torch.equal(torch.cat(rows), drawn)
    assert torch.equal(whole_batch(5).draw_normal(drawn, generator=torch.Generator().manual_seed(4)), drawn)


def test_training_batches_are_those_of_one_process(monkeypatch) -> None:
    batches = {}
    for n in (1, 2, 3):
        for rank in range(n):
            stand_at(monkeypatch, rank, n)
            own = TrainingBatches(EpochSampler(10, seed=3), 4)
            batches[n, rank] = [[int(case) for case in batch] for batch in own]
            assert len(own) == len(batches[n, rank]) == 3
            assert [len(b) for b in batches[n, rank]] == [
                own.shard_of_batch(i).stop - own.shard_of_batch(i).start for i in range(3)
            ]
    for n in (2, 3):
        for index, batch in enumerate(batches[1, 0]):
            parts = [batches[n, rank][index] for rank in range(n)]
            assert [case for part in parts for case in part] == batch or len(batch) < n


def test_a_batch_has_a_case_for_each_process(monkeypatch, caplog) -> None:
    stand_at(monkeypatch, 1, 3)
    assert TrainingBatches(EpochSampler(10, seed=3), 1).batch_size == 3
    assert "batch_size is 1 for 3 processes: batches of 3 cases are taken" in caplog.text


@pytest.mark.parametrize("n_cases", [2, 7])
def test_validation_batches_are_dealt_out_whole_and_each_process_has_some(monkeypatch, n_cases) -> None:
    stand_at(monkeypatch, 0, 1)
    expected = list(ValidationBatches(n_cases, 2))
    seen: list[list[int]] = []
    for rank in range(2):
        stand_at(monkeypatch, rank, 2)
        batches = ValidationBatches(n_cases, 2)
        own = list(batches)
        assert len(own) == len(batches) >= batches.n_common >= 1
        assert [expected[batches.number_of(i) - 1] for i in range(1, len(own) + 1)] == own
        seen += own
    assert sorted(seen) == (expected if len(expected) > 1 else expected * 2)


def test_a_loader_that_gives_every_process_the_same_is_refused(monkeypatch) -> None:
    loader = torch.utils.data.DataLoader([1, 2, 3])
    assert shard_of_batch(loader, index=0, n_rows=3) == whole_batch(3)
    stand_at(monkeypatch, 0, 2)
    with pytest.raises(TypeError, match=r"2 processes train, .* medldm\.training\.training_loader"):
        shard_of_batch(loader, index=0, n_rows=3)


def test_processes_that_do_not_talk_are_refused(monkeypatch) -> None:
    require_distributed()
    init_distributed()
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"torchrun started 2 processes, .* add multi_gpu\.yaml"):
        require_distributed()


def exchange(rank: int, folder: Path) -> None:
    """Check every exchange in one of three processes."""
    part = torch.tensor([1.0, 2.0]) * (rank + 1)
    part.requires_grad_()
    total = all_reduce_sum(part)
    assert total.tolist() == [6.0, 12.0]
    ((rank + 1) * total[0] ** 2).backward()
    assert part.grad is not None
    assert part.grad.tolist() == [6 * 12.0, 0.0]
    assert bool(all_reduce_any(torch.tensor(rank == 2)))
    assert not bool(all_reduce_any(torch.tensor(False)))
    assert all_reduce_max(10 * (rank == 1)) == 10
    assert broadcast_from_first(torch.tensor(rank + 5)) == 5
    assert items_of_rank(range(7)) == list(range(rank, 7, 3))
    shard = shard_batch(2)
    terms = shard.mean_terms({"a": torch.tensor(float(rank)), "b": torch.tensor(1.0)})
    assert shard.is_stand_in == (rank == 0)
    assert shard.from_first(torch.tensor(rank + 5)) == 6
    assert {name: float(term) for name, term in terms.items()} == {"a": 1.5, "b": 1.0}
    assert float(shard.sum(torch.tensor(1.0))) == 2.0
    (folder / f"done_{rank}").touch()


def test_exchanges_between_three_processes(tmp_path) -> None:
    assert run_on_ranks(partial(exchange, folder=tmp_path), tmp_path / "ranks", n=3) == [0, 0, 0]
    assert len(list(tmp_path.glob("done_*"))) == 3
    alone = BatchShard(start=0, stop=2, total=2)
    assert alone.weight == 1.0
    assert float(all_reduce_sum(torch.tensor(3.0))) == 3.0


def rows_on_a_rank(rank: int, *, n_items: int) -> None:
    seen: list[int] = []

    def compute(items: range) -> list[np.ndarray]:
        seen.extend(items)
        return [np.array([each, math.nan, -0.1 * each]) for each in items]

    rows = gather_rows(range(n_items), compute)
    expected = np.array([[each, math.nan, -0.1 * each] for each in range(n_items)])
    assert rows.tobytes() == expected.tobytes()
    assert seen == list(range(rank, n_items, 2))


@pytest.mark.parametrize("n_items", [1, 2, 5])
def test_rows_are_computed_once_and_known_to_all(tmp_path: Path, n_items: int) -> None:
    assert run_on_ranks(partial(rows_on_a_rank, n_items=n_items), tmp_path) == [0, 0]


def rows_with_an_error(rank: int) -> None:
    def compute(items: range) -> list[np.ndarray]:
        for each in items:
            if each == 3:
                raise ValueError("case 3 cannot be used")
        return [np.zeros(1) for _ in items]

    with pytest.raises(ValueError, match="case 3 cannot be used"):
        gather_rows(range(4), compute)


def test_an_error_in_one_process_is_the_error_of_all(tmp_path: Path) -> None:
    assert run_on_ranks(rows_with_an_error, tmp_path) == [0, 0]
