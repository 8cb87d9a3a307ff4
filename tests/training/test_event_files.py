"""Event files say nothing of the machine."""

from __future__ import annotations

import socket
from pathlib import Path

from tensorboard.summary.writer import event_file_writer

from medldm.training.event_files import NeutralSummaryWriter


def test_no_event_file_names_the_machine(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ward-7-smith")
    writer = NeutralSummaryWriter(str(tmp_path))
    writer.add_scalar("a", 1.0, 0)
    writer.close()
    writer.add_scalar("a", 2.0, 1)  # a writer that was closed opens another file
    writer.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        assert ".host." in file.name
        assert "ward" not in file.name
        assert b"ward" not in file.read_bytes()
    assert event_file_writer.socket is socket
