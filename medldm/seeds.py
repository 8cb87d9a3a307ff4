"""How every seed and every stream of random numbers follows from the one seed of a run; nothing else says so.

Results are promised to the bit for a seed, so none of these functions may ever change what it returns.

The numbers that noise begins from are apart, because no two makers fill the same four words of 32 bits, and
`numpy.random.SeedSequence` tells any four words from any other four (it pads fewer with 0):

    volume      seed, index, 0,       0
    label maps  seed, 0,     1,       0
    attempt     seed, index, attempt, 1       attempt from 1 on
    texture     seed, index, 2^31,    2
    its level   seed, 2^30,  2,       0       seed of the texture

for seeds and indices below 2^32, which take one word. Larger seeds, as that of a texture, take two and differ
but by chance.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

_TEXTURE = 2**33 + 2**31
"""Beyond the number of any attempt, so that texture is drawn from noise of its own."""
_TEXTURE_LEVEL = 2**33 + 2**30
_APPEARANCE = 2**33 + 2**29
_LABEL_MAPS = 2**32
"""Beyond the index of any volume, so that label maps begin from noise of their own: the words 0 and 1."""
_ATTEMPT = 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch for a training; called by the workflows, never on import."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def restart_noise(seed: int) -> None:
    """Let torch's CPU generator begin anew, once a training's networks are made.

    What the training draws from it then follows from the seed alone.
    """
    torch.default_generator.manual_seed(seed)


def volume_seed(seed: int, index: int) -> int:
    """Return the seed of one volume: independent for each index, the same alone or in a batch."""
    return _mix(seed, index)


def label_map_seed(seed: int) -> int:
    """Return the seed of the label maps that the volumes of a seed are made from.

    With the seed itself, an image would begin from the noise that its own label map began from.
    """
    return _mix(seed, _LABEL_MAPS)


def texture_seed(seed: int, index: int) -> int:
    """Return the seed of the texture of one volume, the same alone or in a batch."""
    return _mix(seed, index, _TEXTURE)


def appearance_seed(seed: int) -> int:
    """Return the seed of what a volume looks like as a whole, from the seed of the volume."""
    return _mix(seed, _APPEARANCE)


def texture_level_seed(seed: int) -> int:
    """Return the seed of how strong a texture is, from the seed of that texture."""
    return _mix(seed, _TEXTURE_LEVEL)


def attempt_seed(seed: int, index: int, attempt: int) -> int:
    """Return the seed of an attempt at a volume that a quality gate may refuse.

    Attempt 0 is the volume that the seed stands for. With the seed of a later one, the volume of the same
    index is that attempt's, without any gate.
    """
    return seed if attempt == 0 else _mix(seed, index, attempt, _ATTEMPT)


def dropout_seed(seed: int, number: int) -> int:
    """Return the seed of a sample's mask in one of a network's dropout layers."""
    return _mix(seed, number)


def numbered_seed(seed: int, number: int) -> int:
    """Return the seed of a validation's batch, or of one of several trainings that are averaged."""
    return seed + number


def order_generator(seed: int, *, attempt: int, epoch: int, start: int) -> np.random.Generator:
    """Return what draws the order of the cases of an epoch from place `start` on, see `EpochSampler`."""
    return _stream(seed, attempt, epoch, start)


def case_seed(seed: int, *, attempt: int, epoch: int, case: int) -> int:
    """Return the seed, in [0, 2^32), of a case's random transforms in an epoch."""
    numbers = [number % 2**32 for number in (seed, attempt, epoch, case)]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def augmentation_generator(seed: int, *, content: str, copy: int) -> np.random.Generator:
    """Return what draws how a numbered copy of a case is augmented.

    Args:
        seed: of the training.
        content: hash of what the case holds, wherever it lies in the cohort.
        copy: from 1; 0 is the case as it is.
    """
    digest = hashlib.sha256(content.encode()).digest()
    return _stream(seed, int.from_bytes(digest[:16], "big"), copy)


def copy_generator(drawn_seed: int) -> np.random.Generator:
    """Return what draws which copy of a case an epoch takes, from the seed of `case_seed`."""
    return _stream(drawn_seed, 2)


def subject_rank(seed: int, subject: str) -> bytes:
    """Return what orders the subjects of a cohort before it is split.

    A hash depends on no library's generator and on no other subject.
    """
    return hashlib.sha256(f"{seed}:{subject}".encode()).digest()


def demo_brain_generator(seed: int, index: int) -> np.random.Generator:
    """Return what draws the shape and the intensities of a subject of the demonstration cohort."""
    return _stream(seed, index)


def demo_text_generator(seed: int, index: int) -> np.random.Generator:
    """Return what draws the conditions of a subject of the demonstration cohort."""
    return _stream(seed, index, 1)


def label_noise_generator(seed: int) -> np.random.Generator:
    """Return what draws random labels, beside random images: the same with images and without."""
    return _stream(seed, 1)


def rounding_generator(digest: str) -> np.random.Generator:
    """Return what draws the rounding of a volume's values, from the hexadecimal hash of its content."""
    return _stream(int(digest[:16], 16))


def _mix(*numbers: int) -> int:
    """Return a seed in [0, 2^63) that is another one where any of the numbers is."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _stream(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(numbers))
