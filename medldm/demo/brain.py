"""Brains for demonstrations: warped, re-contrasted copies of the MNI152 template, made without a download.

The nilearn package carries the skull-stripped T1-weighted ICBM 152 template and its grey and white matter
maps inside its wheel. Each subject is that brain under its own diffeomorphism and affine, with its own
tissue contrast, bias field, blur and noise.

Source: Fonov et al. 2011, "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 54;
the diffeomorphism integrates a stationary velocity field, Arsigny et al. 2006, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medldm.demo.conditions import Contrast
from medldm.errors import MissingPackageError
from medldm.seeds import demo_brain_generator

Array = npt.NDArray[np.float32]

FIELD_OF_VIEW_MM = (160.0, 192.0, 160.0)
"""Fits the brains closely, one or two of 32 touch its border; 40 x 48 x 40 voxels of 4 mm."""

CENTRE_MM = (0.0, -17.0, 4.0)
"""The middle of the template's brain in MNI space, and of the field of view."""

VENTRICLE_PULL_MM = (-2.0, 6.0)
"""How far the ventricles' walls are moved at most, outward above 0; drawn between these for each subject."""

WIDE_VENTRICLE_PULL_MM = (-6.0, 18.0)
"""The same where the size of the ventricles is a condition to be learned: from slits to a hydrocephalus."""

_GREY, _WHITE, _FLUID = 0.65, 0.86, 0.27  # mean intensities of the template's tissues, white matter near 1
_SQUARINGS = 5


@dataclass(frozen=True, kw_only=True)
class Template:
    """The MNI152 brain, smoothed for a coarser grid, and that grid.

    Args:
        maps: (4, X, Y, Z) on the 1 mm grid: T1 intensity, grey matter, white matter, inside of the brain.
        to_index: (4, 4), world millimetres to indices of `maps`.
        affine: (4, 4), the subjects' indices to world millimetres.
        shape: of the subjects' grid.
        spacing_mm: of the subjects' grid.
        ventricle_pull: (3, *shape), a field of length at most 1 that points into the ventricles.
    """

    maps: Array
    to_index: npt.NDArray[np.float64]
    affine: npt.NDArray[np.float64]
    shape: tuple[int, int, int]
    spacing_mm: float
    ventricle_pull: Array

    def sample(self, points_mm: Array) -> Array:
        """Interpolate the maps at world points (3, ...); 0 outside the template."""
        return _sample(self.maps, points_mm, to_index=self.to_index)


def load_template(spacing_mm: float) -> Template:
    """Read the template that nilearn ships and smooth it for a grid of `spacing_mm`."""
    try:
        from nilearn import datasets
    except ImportError as error:
        raise MissingPackageError(
            "the demonstration cohort needs nilearn; install it with pip install 'medldm[demo]'"
        ) from error
    brain = datasets.load_mni152_template(resolution=1)
    t1, grey, white = (
        np.asarray(image.dataobj, dtype=np.float32)
        for image in (brain, datasets.load_mni152_gm_template(1), datasets.load_mni152_wm_template(1))
    )
    stack = (t1, grey, white, (t1 > 0).astype(np.float32))
    maps = np.stack([ndimage.gaussian_filter(each, 0.3 * spacing_mm, mode="constant") for each in stack])
    to_index = np.linalg.inv(brain.affine)
    shape, affine = _make_grid(spacing_mm)
    values = _sample(maps, _grid_points(shape, affine), to_index=to_index)
    return Template(
        maps=maps,
        to_index=to_index,
        affine=affine,
        shape=shape,
        spacing_mm=spacing_mm,
        ventricle_pull=_find_ventricle_pull(values, spacing_mm=spacing_mm),
    )


def make_subject(
    template: Template,
    *,
    seed: int,
    index: int,
    contrast: Contrast = "t1",
    ventricle_pull_mm: tuple[float, float] = VENTRICLE_PULL_MM,
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Make one subject.

    Args:
        template: the brain it is made from.
        seed: of the cohort.
        index: of the subject in the cohort.
        contrast: "t1" or "t2".
        ventricle_pull_mm: see `VENTRICLE_PULL_MM`.

    Returns:
        The image, 0 outside the brain, in arbitrary units of its own; and its labels.
    """
    generator = demo_brain_generator(seed, index)
    points = make_deformation(template, generator=generator, ventricle_pull_mm=ventricle_pull_mm)
    values = template.sample(points)
    t1, grey, white, inside = values
    fluid = np.clip(inside - grey - white, 0.0, 1.0)
    labels = np.stack([1.0 - inside, grey, white, fluid]).argmax(axis=0).astype(np.uint8)
    fractions = np.stack([grey, white, fluid])
    image = _make_image(t1, fractions, contrast=contrast, spacing_mm=template.spacing_mm, generator=generator)
    image[inside < 0.1] = 0.0
    return image, labels


def make_deformation(
    template: Template,
    *,
    generator: np.random.Generator,
    ventricle_pull_mm: tuple[float, float] = VENTRICLE_PULL_MM,
) -> Array:
    """Draw where, in template millimetres, each voxel of a subject comes from, (3, X, Y, Z).

    The map is an affine after the exponential of a smooth velocity field, so it folds nowhere.
    """
    spacing = template.spacing_mm
    velocity = np.zeros((3, *template.shape), dtype=np.float32)
    for smoothness_mm, amplitude_mm in ((30.0, 3.2), (12.0, 1.4)):
        noise = generator.standard_normal((3, *template.shape)).astype(np.float32)
        velocity += amplitude_mm * _smooth_noise(noise, smoothness_mm / spacing)
    velocity += generator.uniform(*ventricle_pull_mm) * template.ventricle_pull
    displacement = _integrate(velocity, spacing_mm=spacing)
    displacement -= displacement.mean(axis=(1, 2, 3), keepdims=True)
    points = _grid_points(template.shape, template.affine) + displacement
    centre = np.asarray(CENTRE_MM, dtype=np.float32)
    matrix = _draw_affine(generator).astype(np.float32)
    shift = generator.uniform(-2.0, 2.0, size=3).astype(np.float32)
    moved = np.tensordot(matrix, points - centre[:, None, None, None], axes=1)
    return moved + (centre + shift)[:, None, None, None]


def _make_grid(spacing_mm: float) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    n_x, n_y, n_z = (round(extent / spacing_mm) for extent in FIELD_OF_VIEW_MM)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = np.asarray(CENTRE_MM) - spacing_mm * (np.array([n_x, n_y, n_z]) - 1) / 2
    return (n_x, n_y, n_z), affine


def _grid_points(shape: tuple[int, int, int], affine: npt.NDArray[np.float64]) -> Array:
    indices = np.indices(shape, dtype=np.float32)
    moved = np.tensordot(affine[:3, :3].astype(np.float32), indices, axes=1)
    return moved + affine[:3, 3].astype(np.float32)[:, None, None, None]


def _sample(maps: Array, points_mm: Array, *, to_index: npt.NDArray[np.float64]) -> Array:
    points = np.tensordot(to_index[:3, :3], points_mm, axes=1) + to_index[:3, 3][:, None, None, None]
    return np.stack([ndimage.map_coordinates(each, points, order=1, mode="constant") for each in maps])


def _find_ventricle_pull(values: Array, *, spacing_mm: float) -> Array:
    """Return the gradient of the smoothed map of fluid deep in the brain, at most 1 long."""
    _, grey, white, inside = values
    depth_mm = spacing_mm * ndimage.distance_transform_edt(inside > 0.5)
    ventricles = np.clip(inside - grey - white, 0.0, 1.0) * (depth_mm > 24.0)
    smooth = ndimage.gaussian_filter(ventricles, 8.0 / spacing_mm)
    pull = np.stack(np.gradient(smooth))
    return (pull / np.linalg.norm(pull, axis=0).max()).astype(np.float32)


def _smooth_noise(noise: Array, sigma: float) -> Array:
    """Smooth white noise (..., X, Y, Z) to `sigma` voxels, standard deviation 1 again."""
    smooth = ndimage.gaussian_filter(noise, (0,) * (noise.ndim - 3) + (sigma,) * 3, mode="wrap")
    return smooth / smooth.std()


def _integrate(velocity_mm: Array, *, spacing_mm: float) -> Array:
    """Return the displacement in mm of the velocity field's exponential, by scaling and squaring."""
    displacement = velocity_mm / spacing_mm / 2**_SQUARINGS
    indices = np.indices(velocity_mm.shape[1:], dtype=np.float32)
    for _ in range(_SQUARINGS):
        points = indices + displacement
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(each, points, order=1, mode="nearest") for each in displacement]
        )
    return displacement * spacing_mm


def _draw_affine(generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw a rotation of up to 6 degrees about each axis and a scale for each axis, subject to template."""
    matrix = np.diag(1.0 / generator.uniform((0.90, 0.88, 0.86), (0.99, 0.98, 0.95)))
    for axis, angle in enumerate(np.deg2rad(generator.uniform(-6.0, 6.0, size=3))):
        first, second = [other for other in range(3) if other != axis]
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ rotation
    return matrix


def _make_image(
    t1: Array, fractions: Array, *, contrast: Contrast, spacing_mm: float, generator: np.random.Generator
) -> Array:
    """Give the tissues new means, keep the template's detail, add bias field, blur and Rician noise."""
    old = np.array([_GREY, _WHITE, _FLUID], dtype=np.float32)
    new = _draw_means(contrast, generator=generator)
    detail = (new[1] - new[2]) / (old[1] - old[2])
    signal = np.tensordot(new, fractions, axes=1) + detail * (t1 - np.tensordot(old, fractions, axes=1))
    noise = generator.standard_normal((3, *t1.shape)).astype(np.float32)
    bias = np.exp(generator.uniform(0.03, 0.12) * _smooth_noise(noise[0], 60.0 / spacing_mm))
    signal = ndimage.gaussian_filter(signal * bias, generator.uniform(0.0, 0.4))
    level = generator.uniform(0.005, 0.025)
    magnitude = np.hypot(signal + level * noise[1], level * noise[2])
    return (generator.uniform(300.0, 1200.0) * magnitude).astype(np.float32)


def _draw_means(contrast: Contrast, *, generator: np.random.Generator) -> Array:
    """Draw the mean intensities of grey matter, white matter and fluid; the brightest has 1."""
    if contrast == "t1":
        grey = generator.uniform(0.62, 0.80)
        return np.array([grey, 1.0, grey * generator.uniform(0.25, 0.50)], dtype=np.float32)
    grey = generator.uniform(0.52, 0.62)
    return np.array([grey, grey * generator.uniform(0.60, 0.75), 1.0], dtype=np.float32)
