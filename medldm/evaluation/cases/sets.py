"""The cases of an evaluation, on one grid and one intensity scale, and what to know about them beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medldm.data.labels import LabelSchema
from medldm.evaluation.errors import TooFewCasesError
from medldm.files import hash_array
from medldm.seeds import label_noise_generator
from medldm.transforms.window import centre_crop_or_pad

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Known = npt.NDArray[np.bool_]
"""(N, K): of which structures 1..K of N cases it is known where they are; the map covers them."""
LabelledImage = tuple[Image, Labels]
"""An image (X, Y, Z) and its labels 0..K."""


@dataclass(frozen=True, kw_only=True)
class CaseSet:
    """The cases of one set, on the common grid.

    Args:
        images: (X, Y, Z) each, on the common scale; empty where label maps alone are evaluated.
        labels: (X, Y, Z) each, values of the schema; None where any case has none.
        subjects: number of each case's subject within the set, from 0; no identifier is kept.
        file_spacing_mm: median spacing of the files.
        file_range: median over cases of the 0.5th and 99.5th percentile in the files' units; 0 and 0 without
            images.
        known: which structures each map covers, in the order of the schema; None where all cover all.
    """

    images: tuple[Image, ...]
    labels: tuple[Labels, ...] | None
    subjects: tuple[int, ...]
    file_spacing_mm: tuple[float, ...]
    file_range: tuple[float, float]
    known: Known | None = None

    def __len__(self) -> int:
        return len(self.subjects)

    def known_labels(self) -> tuple[Labels, ...]:
        """Return the label maps.

        Raises:
            TooFewCasesError: where there are none.
        """
        if self.labels is None:
            raise TooFewCasesError("a set has no label maps, or not of every case")
        return self.labels

    def picture(self, place: int) -> Image:
        """Return an image to show, (X, Y, Z): of a label map alone, where its structures are."""
        return self.images[place] if self.images else (self.known_labels()[place] > 0).astype(np.float32)

    def boxed_images(self, shape: Sequence[int]) -> list[Image]:
        """Return the images, cropped or padded about their centre to one shape by repeating the border."""
        return [centre_crop_or_pad(image, shape) for image in self.images]


@dataclass(frozen=True, kw_only=True)
class CaseSets:
    """Everything that is evaluated.

    Args:
        train: real cases that the model was trained on.
        test: real cases that it never saw.
        synthetic: cases of the model.
        noise: as many cases as `test`, of white noise with its mean and standard deviation, and random
            labels.
        schema: the structures; None without label maps.
        spacing_mm: of the common grid.
        shape: voxels that measures of one shape crop or pad to.
        is_ct: whether intensities are Hounsfield units.
        issues: what the reader should know about the sets, without identifiers.
        ceiling: the test cases, place by place, through the autoencoder of the model; None without a model.
    """

    train: CaseSet
    test: CaseSet
    synthetic: CaseSet
    noise: CaseSet
    schema: LabelSchema | None
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    is_ct: bool
    issues: tuple[str, ...]
    ceiling: CaseSet | None = None

    def named(self) -> dict[str, CaseSet]:
        """Return the sets by name: train, test, synthetic, noise and, where there is one, ceiling."""
        parts = {name: getattr(self, name) for name in ("train", "test", "synthetic", "noise", "ceiling")}
        return {name: part for name, part in parts.items() if part is not None}

    def known_schema(self) -> LabelSchema:
        """Return the structures.

        Raises:
            TooFewCasesError: where no set has label maps.
        """
        if self.schema is None:
            raise TooFewCasesError("the sets have no label maps")
        return self.schema

    @property
    def has_images(self) -> bool:
        """Whether there are images, not label maps alone."""
        return bool(self.train.images)

    @property
    def same_spacing(self) -> bool:
        """Whether the files of the synthetic and the real sets have the same spacing within 5 %."""
        first = np.asarray(self.train.file_spacing_mm)
        return all(np.allclose(s.file_spacing_mm, first, rtol=0.05) for s in (self.test, self.synthetic))

    @property
    def same_units(self) -> bool:
        """Whether synthetic intensities span between a third and three times the real range."""
        real, synthetic = (s.file_range[1] - s.file_range[0] for s in (self.train, self.synthetic))
        return bool(real / 3 <= synthetic <= 3 * real)

    def find_issues(self, *, n_shared: int) -> list[str]:
        """Say what differs between the sets, without identifiers.

        Args:
            n_shared: subject names that occur in both real self.
        """
        issues = []
        if n_shared:
            issues.append(
                f"{n_shared} subject names occur in both the real training and the real test set. If they "
                "are the same people, the test set is not independent and every comparison with it is too "
                "kind."
            )
        grid = " x ".join(f"{edge:.3g}" for edge in self.spacing_mm)
        names = (("real test", self.test), ("synthetic", self.synthetic), ("real training", self.train))
        for name, each in names:
            if not np.allclose(each.file_spacing_mm, self.spacing_mm, rtol=0.05):
                own = " x ".join(f"{edge:.3g}" for edge in each.file_spacing_mm)
                issues.append(
                    f"The {name} volumes have a spacing of {own} mm and were resampled to {grid} mm."
                )
        if not self.same_units:
            issues.append(
                f"The synthetic images run from {self.synthetic.file_range[0]:.4g} to "
                f"{self.synthetic.file_range[1]:.4g}, the real training images from "
                f"{self.train.file_range[0]:.4g} to {self.train.file_range[1]:.4g}: they are not in the same "
                "intensity units."
            )
        issues += [
            f"The {name} set has no label maps, or not of every case."
            for name, each in names
            if each.labels is None
        ]
        real_maps = [*(self.train.labels or ()), *(self.test.labels or ())]
        if n_equal := count_equal(self.synthetic.labels or (), real_maps):
            meaning = "the model copies."
            if self.has_images:
                meaning = (
                    "for these, the anatomy of the maps says nothing about the model. What the segmenter "
                    "sees in the images does."
                )
            issues.append(
                f"{n_equal} of {len(self.synthetic)} synthetic label maps equal a real one voxel by voxel: "
                f"{meaning}"
            )
        return issues


def make_noise(test: CaseSet, *, schema: LabelSchema | None, seed: int = 0) -> CaseSet:
    """Return noise with each test image's shape, mean and standard deviation, and labels drawn evenly."""
    generator = np.random.default_rng(seed)
    images = tuple(
        (image.mean() + image.std() * generator.standard_normal(image.shape)).astype(np.float32)
        for image in test.images
    )
    generator = label_noise_generator(seed)
    labels = None
    if schema is not None and test.labels is not None:
        values = np.array([0, *schema.values])
        labels = tuple(values[generator.integers(len(values), size=each.shape)] for each in test.labels)
    return replace(test, images=images, labels=labels)


def count_equal(first: Sequence[npt.NDArray[Any]], second: Sequence[npt.NDArray[Any]]) -> int:
    """Return how many arrays of the first set are in the second, element by element."""
    known = {hash_array(each) for each in second}
    return sum(hash_array(each) in known for each in first)
