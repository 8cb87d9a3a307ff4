"""A small 3D U-Net that segments the structures of a cohort: the measuring instrument of label agreement and
usefulness.

The same network, loss, largest number of steps and batches of the same seed whatever it is trained on, so
that only the training data differ. The learning rate is constant and the weights are averaged over the last
part of the training, so that it may end at any step: where cases that it holds out of its own training set
have not been segmented better for a while, its plateau.

    average <- beta average + (1 - beta) weights,    beta = (1 - 1 / step)^(gamma + 1)                    (1)

Cases whose maps do not cover every structure train with the rest: probabilities of structures that a map does
not cover are added to that of its background, which they may lie in,

    q_0 = p_0 + sum over k not covered of p_k,    q_k = p_k for those covered                             (2)

Source: (1) Karras et al. 2023, Analyzing and Improving the Training Dynamics of Diffusion Models, Eq. (4).
(2) Shi et al. 2021, Marginal loss and exclusion loss for partially supervised multi-organ segmentation,
Section 3.1.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.cases.sets import Known, LabelledImage
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.overlap import dice_scores, only_known
from medldm.transforms.window import centre_crop_or_pad

DIVISOR = 4
"""The network halves its input twice."""
WARM_UP_STEPS = 30
AVERAGE_GAMMA = 6.0
"""The average looks back over about the last seventh of the steps."""
MIN_CASES_TO_HOLD_OUT = 5
MAX_HELD_OUT = 8


@dataclass(kw_only=True)
class SegmenterConfig(Config):
    """Network and training.

    Args:
        channels: of the three levels.
        patch_size: largest patch along X, Y, Z; made smaller to the volumes, in multiples of 4.
        batch_size: patches in a step.
        n_steps: of a training; None lets the caller fit them into a time budget.
        max_steps: of a fitted training.
        learning_rate: of AdamW, reached after 30 steps.
        patience: validations without a better one after which a training ends; None trains all steps.
        validation_interval: steps between two validations.
        validation_fraction: of the training cases, held out of the training to validate; at least 1, at most
            8, none of fewer than 5.
    """

    channels: tuple[int, int, int] = (16, 32, 64)
    patch_size: tuple[int, int, int] = (48, 48, 48)
    batch_size: int = 2
    n_steps: int | None = None
    max_steps: int = 4000
    learning_rate: float = 4e-3
    patience: int | None = 10
    validation_interval: int = 50
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) != 3 or len(self.patch_size) != 3 or any(n < DIVISOR for n in self.patch_size):
            raise ConfigError(
                f"channels {self.channels} and patch_size {self.patch_size} are given; three levels and "
                f"three sizes of at least {DIVISOR} are needed"
            )
        self.require("[1, inf)", "batch_size", "n_steps", "max_steps", "patience", "validation_interval")
        self.require("[0, 0.5]", "validation_fraction")


class Segmenter:
    """A trained network with what it needs to segment.

    Args:
        network: (B, 1, X, Y, Z) to (B, K + 1, X, Y, Z).
        patch: sliding window.
        n_steps: that its training took.
    """

    def __init__(self, network: nn.Module, patch: tuple[int, int, int], *, n_steps: int = 0) -> None:
        self.network = network.eval()
        self.patch = patch
        self.n_steps = n_steps

    @torch.no_grad()
    def segment(self, image: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the labels 0..K (X, Y, Z) of an image (X, Y, Z)."""
        array = standardise(np.asarray(image, dtype=np.float32))
        shape = np.maximum(array.shape, self.patch).tolist()
        padded = torch.from_numpy(np.ascontiguousarray(centre_crop_or_pad(array, shape)))[None, None]
        scores = sliding_window_inference(padded, self.patch, 4, self.network, overlap=0.25)
        return centre_crop_or_pad(torch.as_tensor(scores).argmax(dim=1)[0].numpy(), array.shape)


def train_segmenter(
    cases: Sequence[LabelledImage],
    config: SegmenterConfig | None = None,
    *,
    n_structures: int,
    n_steps: int,
    seed: int = 0,
    added: Sequence[LabelledImage] = (),
    known: tuple[Known | None, Known | None] = (None, None),
) -> Segmenter:
    """Train a segmenter until its plateau, or for `n_steps`.

    Args:
        cases: images and labels 0..K, of any shapes.
        config: of network and training.
        n_structures: K.
        n_steps: of the optimiser, at most.
        seed: of weights, held out cases, patches and changes of intensity; the same seed and cases give the
            same segmenter.
        added: more cases to train on, in every other patch where they are more than `cases`; none of them is
            held out.
        known: which structures the maps of `cases` and of `added` cover; None for all.

    Raises:
        TooFewCasesError: for no cases.
        ValueError: for an image whose labels have another shape.
    """
    config = config or SegmenterConfig()
    own, more = (
        [_prepare(*each, covered) for each, covered in zip(some, _rows(rows, len(some)), strict=True)]
        for some, rows in zip((cases, added), known, strict=True)
    )
    if not own:
        raise TooFewCasesError("there is no case to train a segmenter on")
    patch = patch_for([each.image.shape for each in own], config)
    generator = torch.Generator().manual_seed(seed)
    own, held_out = _hold_out(own, config, generator=generator)
    sources = [[_fit_to_patch(each, patch) for each in some] for some in (own, more) if some]
    network = _make_network(config, n_structures=n_structures, seed=seed)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS))
    criterion = DiceCELoss(softmax=True, to_onehot_y=True)
    plateau = _Plateau(config.patience if held_out else None)
    network.train()
    for step in range(1, n_steps + 1):
        images, labels, unknown = _draw_batch(sources, patch, config.batch_size, generator=generator)
        loss = criterion(merge_unknown(network(images), unknown), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        _follow(average, network, step=step)
        if plateau.is_watched and (step % config.validation_interval == 0 or step == n_steps):
            score = _validate(Segmenter(average, patch), held_out, n_structures=n_structures)
            if plateau.is_reached(score, average):
                break
    average.load_state_dict(plateau.weights or average.state_dict())
    return Segmenter(average, patch, n_steps=step)


class _Case(NamedTuple):
    """A standardised image with its labels 0..K.

    Args:
        image: (X, Y, Z).
        labels: the same.
        known: (K,) structures that the map covers; None for all.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_] | None = None


def _rows(known: Known | None, n: int) -> Sequence[npt.NDArray[np.bool_] | None]:
    return [None] * n if known is None else list(known)


def merge_unknown(logits: Tensor, unknown: Tensor | None) -> Tensor:
    """Return logits whose softmax has the probabilities of unknown structures in the background, Eq. (2).

    Args:
        logits: (B, K + 1, X, Y, Z).
        unknown: (B, K) bool; None where there is none, and the logits stay what they are.
    """
    if unknown is None:
        return logits
    merged = nn.functional.pad(unknown, (1, 0), value=True)[:, :, None, None, None]
    # Finite: 0 times the logarithm of a probability of 0 must be 0.
    nothing = torch.finfo(logits.dtype).min / 2
    background = logits.masked_fill(~merged, nothing).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(merged[:, 1:], nothing)], dim=1)


class _Plateau:
    """Watch a score that is to rise, and keep the weights of the best one."""

    def __init__(self, patience: int | None) -> None:
        self.is_watched = patience is not None
        self.weights: dict[str, Tensor] | None = None
        self._patience = patience or 0
        self._best, self._n_worse = -math.inf, 0

    def is_reached(self, score: float, network: nn.Module) -> bool:
        """Whether the best score is `patience` validations old."""
        if score > self._best:
            self._best, self._n_worse = score, 0
            self.weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            return False
        self._n_worse += 1
        return self._n_worse >= self._patience


def seconds_per_step(
    cases: Sequence[LabelledImage], config: SegmenterConfig, *, n_structures: int, n_steps: int = 3
) -> float:
    """Time a few steps of a training on this machine."""
    train_segmenter(cases[:1], config, n_structures=n_structures, n_steps=1)
    start = time.monotonic()
    train_segmenter(cases[: config.batch_size], config, n_structures=n_structures, n_steps=n_steps)
    return (time.monotonic() - start) / n_steps


def patch_for(shapes: Sequence[Sequence[int]], config: SegmenterConfig) -> tuple[int, int, int]:
    """Return the patch: the median volume, rounded up to multiples of 4, at most the configured one."""
    wanted = np.ceil(np.median(shapes, axis=0) / DIVISOR)
    most = np.array(config.patch_size) // DIVISOR
    x, y, z = (int(n) * DIVISOR for n in np.minimum(wanted, most))
    return x, y, z


def standardise(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the image with mean 0 and standard deviation 1."""
    return np.asarray((image - image.mean()) / max(float(image.std()), 1e-6), dtype=np.float32)


def _make_network(config: SegmenterConfig, *, n_structures: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=n_structures + 1,
            channels=config.channels,
            strides=(2, 2),
            num_res_units=1,
            norm="INSTANCE",
        )


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, *, step: int) -> None:
    """Move the averaged weights towards the network's, Eq. (1)."""
    share = 1 - (1 - 1 / step) ** (AVERAGE_GAMMA + 1)
    for own, other in zip(average.parameters(), network.parameters(), strict=True):
        own.lerp_(other, share)


def _hold_out(
    cases: list[_Case], config: SegmenterConfig, *, generator: torch.Generator
) -> tuple[list[_Case], list[_Case]]:
    """Split cases into those to train on and those to validate on."""
    if config.patience is None or config.validation_fraction == 0 or len(cases) < MIN_CASES_TO_HOLD_OUT:
        return cases, []
    n = min(max(round(config.validation_fraction * len(cases)), 1), MAX_HELD_OUT)
    order = torch.randperm(len(cases), generator=generator).tolist()
    return [cases[place] for place in order[n:]], [cases[place] for place in order[:n]]


def _validate(segmenter: Segmenter, cases: Sequence[_Case], *, n_structures: int) -> float:
    """Return the mean Dice over cases and the structures that they have."""
    scores = [
        only_known(dice_scores(segmenter.segment(image), labels, n_structures=n_structures), known)
        for image, labels, known in cases
    ]
    return float(np.nanmean(np.stack(scores))) if np.isfinite(scores).any() else 0.0


def _fit_to_patch(case: _Case, patch: Sequence[int]) -> _Case:
    """Pad a case that is smaller than the patch."""
    shape = np.maximum(case.image.shape, patch).tolist()
    image, labels = (centre_crop_or_pad(each, shape) for each in (case.image, case.labels))
    return case._replace(image=image, labels=labels)


def _prepare(
    image: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], known: npt.NDArray[np.bool_] | None
) -> _Case:
    if image.shape != labels.shape:
        raise ValueError(
            f"an image of {image.shape} has labels of {labels.shape}; the shapes must be the same"
        )
    if known is not None:
        labels = np.where(np.isin(labels, 1 + np.flatnonzero(~known)), 0, labels)
    return _Case(standardise(np.asarray(image, dtype=np.float32)), np.asarray(labels, dtype=np.int64), known)


def _draw_batch(
    sources: Sequence[Sequence[_Case]],
    patch: Sequence[int],
    size: int,
    *,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return random patches with a random gain and offset: (B, 1, X, Y, Z) images and labels.

    The last is (B, K) bool, the structures that their maps do not cover; None where all cover all.
    """
    images, maps, covered = [], [], []
    counts = [len(cases) for cases in sources]
    # Evenly from all cases, but at least every other patch from the first source.
    share = max(counts[0] / sum(counts), 0.5)
    for _ in range(size):
        cases = sources[0]
        if len(sources) > 1 and float(torch.rand(1, generator=generator)) >= share:
            cases = sources[1]
        image, labels, known = cases[int(torch.randint(len(cases), (1,), generator=generator))]
        starts = [
            int(torch.randint(n - part + 1, (1,), generator=generator))
            for n, part in zip(image.shape, patch, strict=True)
        ]
        place = tuple(slice(start, start + part) for start, part in zip(starts, patch, strict=True))
        gain, offset = (0.2 * torch.randn(2, generator=generator)).tolist()
        images.append(torch.from_numpy(np.ascontiguousarray(image[place])) * (1 + gain) + offset)
        maps.append(torch.from_numpy(np.ascontiguousarray(labels[place])))
        covered.append(known)
    return torch.stack(images)[:, None], torch.stack(maps)[:, None], _unknown_of(covered)


def _unknown_of(covered: Sequence[npt.NDArray[np.bool_] | None]) -> Tensor | None:
    """Return (B, K) bool, what is not covered; None where nothing is left out."""
    stated = [each for each in covered if each is not None]
    if not stated:
        return None
    rows = np.stack([np.ones_like(stated[0]) if each is None else each for each in covered])
    return None if rows.all() else torch.from_numpy(~rows)
