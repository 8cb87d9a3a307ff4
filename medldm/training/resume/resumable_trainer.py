"""What a trainer offers so that it can be saved and go on: its parts, each with a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from medldm.training.optimisation import OptimiserStep
from medldm.training.resume.state_files import StateError
from medldm.training.sharding import gather_state, shard_state

START_ANEW = (
    "give the configuration the state was made with, another output_dir, or start anew with resume: never"
)


class HasState(Protocol):
    """What a part of a training must offer to be saved."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return nested plain values and tensors."""

    def load_state_dict(self, state: Any) -> Any:
        """Take them over."""


class RunsLoop(Protocol):
    """What saves a trainer's state and goes on from it; it has the say over the trainer's loop."""

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which no other run may write into the training's output folder."""

    def run(self, run: Callable[[], None]) -> None:
        """Run the loop."""


class GeneratorState:
    """A torch.Generator as a part of a training.

    Args:
        generator: to save and restore.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generator's state."""
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the generator's state."""
        self.generator.set_state(state["state"])


class BufferState:
    """Some buffers of a module as a part of a training.

    Args:
        module: holds them.
        names: of the buffers.
    """

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        self.buffers = {name: module.get_buffer(name) for name in names}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the buffers."""
        return dict(self.buffers)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the buffers."""
        for name, buffer in self.buffers.items():
            buffer.copy_(state[name])


class ResumableTrainer:
    """Mixin of MONAI trainers: what a `TrainingStateHandler` needs to save one and to go on with it.

    It stands before MONAI's class among the bases.
    """

    state_handler: RunsLoop | None = None

    @property
    def optimiser_steps(self) -> Sequence[OptimiserStep]:
        """The steps that each batch takes; the first one is taken by every batch."""
        raise NotImplementedError(f"{type(self).__name__} lacks optimiser_steps")

    def state_parts(self) -> dict[str, HasState]:
        """Return all that the trainer's next batch depends on, by name (a to z and _)."""
        raise NotImplementedError(f"{type(self).__name__} lacks state_parts")

    def training_state(self) -> dict[str, Any]:
        """Return the state of every part; every process asks, and what is sharded is whole in the first."""
        return gather_state({name: dict(part.state_dict()) for name, part in self.state_parts().items()})

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Take over the state of every part.

        Raises:
            StateError: if the state is of another training.
        """
        parts = self.state_parts()
        if missing := sorted(parts.keys() ^ state.keys()):
            raise StateError(
                f"the saved state and this training differ in their parts {missing}: {START_ANEW}"
            )
        for name, part in parts.items():
            try:
                part.load_state_dict(shard_state(state[name], part.state_dict()))
            except (RuntimeError, ValueError, KeyError) as error:
                raise StateError(
                    f"the saved {name} does not fit this training ({error}): {START_ANEW}"
                ) from error

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which no other run may write into the output folder, if there is one."""
        return nullcontext() if self.state_handler is None else self.state_handler.alone()

    def run(self) -> None:
        """Train, from the last saved state if it has a state handler.

        Raises:
            FolderInUseError: if another run writes into the output folder.
        """
        run: Callable[[], None] = super().run  # type: ignore[misc]
        if self.state_handler is None:
            run()
        else:
            self.interrupt_resume_enabled = False  # ignite could not run again after a roll back
            with self.alone():
                self.state_handler.run(run)
