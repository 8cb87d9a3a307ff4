"""Show that each condition of a trained model, alone and with others, moves the picture as it should.

python -c "from medldm.demo.cohort import make_demo_cohort as make; make('unseen', conditions=True, seed=1)"
python benchmarks/conditions/report.py CHECKPOINT unseen --num-samples 16 --guidance-scale 2
python benchmarks/conditions/report.py CHECKPOINT unseen --sweep fluid_ml

For each set of conditions one volume is drawn for each case of the cohort, with that case's values of these
conditions and the learned null of the others. All volumes are then measured against the case: does the
contrast agree, does the volume of fluid follow, is the anatomy that of the case's label map? A condition that
was given must be followed; where none is given that tells, chance is right. The first row measures the cases'
own images: the most that the measures can show. By chance a correlation of n cases scatters about 0 by
1 / sqrt(n - 1), so that fewer than 16 say little. The measures were tried at 4 mm.

`--sweep` asks the same of one number without the scatter between cases: each case's noise and class are drawn
with values at 10, 50 and 90 % of the training's range, and guidance on the number alone is raised.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tissue import contrast_skewness, deep_fluid_ml, fit_line, map_overlap
from torch import Tensor
from torch.utils.data import default_collate

from medldm import Conditions, LatentDiffusionSampler
from medldm.conditioning import open_text_encoder
from medldm.data.cohort import Case
from medldm.evaluation.metrics.label_contrast import shuffle_labels
from medldm.networks.downsampling import latent_size
from medldm.runtime.devices import choose_device
from medldm.training import case_transforms, gather_conditions, open_cohort

TISSUES = (1, 2, 3)
GREY, WHITE = 1, 2
SHARES, SWEEP_WEIGHTS = (0.1, 0.5, 0.9), (1.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Cases:
    """What is asked for.

    Args:
        conditions: of B cases.
        images: (B, X, Y, Z) of the cases themselves.
        labels: B maps (X, Y, Z), None for a model without label maps.
        is_t2: (B,) class 1.
        fluid_ml: (B,) volume of fluid in the case's label map.
        spacing_mm: of the voxels.
    """

    conditions: Conditions
    images: np.ndarray
    labels: list[np.ndarray] | None
    is_t2: np.ndarray
    fluid_ml: np.ndarray
    spacing_mm: tuple[float, float, float]


def main() -> None:
    """Read the arguments, draw, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("dataset_dir", help="a demonstration cohort with conditions, not seen in training")
    parser.add_argument("--num-samples", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-encoder", help="folder of the encoder of the training")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--given", nargs="+", metavar="NAME,NAME", help="sets of conditions in the place of the usual ones"
    )
    parser.add_argument(
        "--weight", nargs=2, metavar=("NAME", "W"), help="guide this condition on its own, with this weight"
    )
    parser.add_argument("--sweep", metavar="SCALAR", help="draw with low, middle and high values of it alone")
    options = parser.parse_args()
    device = choose_device(options.device)
    sampler = LatentDiffusionSampler.from_checkpoint(options.checkpoint, device=device)
    cases = read_cases(sampler, options.dataset_dir, options.num_samples, text_encoder=options.text_encoder)
    settings = {
        "num_steps": options.num_steps,
        "guidance_scale": options.guidance_scale,
        "seed": options.seed,
        "batch_size": options.batch_size,
    }
    if options.sweep:
        write_sweep(sampler, cases, options.sweep, settings)
        return
    names = sampler.model.conditioning_config.names
    sets = [tuple(filter(None, each.split(","))) for each in options.given or []] or usual_sets(names)
    write_line(
        ["given", "contrast agrees", "fluid r", "slope", "grey Dice (shuffled)", "white Dice (shuffled)"]
    )
    write_line(["---", *["---:"] * 5])
    write_line(["the cases' own images", *measure(cases.images, cases)])
    for given in sets:
        scale = guidance_of(given, options.guidance_scale, options.weight)
        volumes = draw(sampler, cases, given, settings | {"guidance_scale": scale})
        write_line([" + ".join(given) or "nothing", *measure(volumes, cases)])
    difference = compare_dropped(sampler, cases, settings)
    sys.stdout.write(
        f"\nConditions dropped by a mask against conditions not given: {difference:.1e} at most.\n"
    )


def read_cases(
    sampler: LatentDiffusionSampler, dataset_dir: str, n_cases: int, *, text_encoder: str | None
) -> Cases:
    """Load the first cases whose scalars lie in the range of the training."""
    model, config = sampler.model, sampler.model.conditioning_config
    if model.space is None:
        raise ValueError("the model has no space: train it through the bundle")
    encoder = None
    if "text" in config.conditioning_type:
        encoder = open_text_encoder(text_encoder, identity=config.text_encoder)
    found = open_cohort(dataset_dir, validation_fraction=0.0, seed=0).cases
    known = [case for case in found if is_known(case, config.scalars)]
    if len(known) < min(n_cases, len(found)):
        sys.stdout.write(
            f"{len(found) - len(known)} of {len(found)} cases lie outside the training's range.\n"
        )
    transform = case_transforms(model.space, config, text_encoder=encoder)
    known = known[:n_cases]
    batch = default_collate([dict(transform(case)) for case in known])
    conditions = gather_conditions(batch, config.names)
    has_maps = "label_map" in conditions.values
    return Cases(
        conditions=conditions,
        images=batch["image"][:, 0].numpy(),
        labels=[row[0].numpy() for row in conditions.values["label_map"]] if has_maps else None,
        is_t2=np.array([case["class"] == 1 for case in known]),
        fluid_ml=np.array([case["scalars"]["fluid_ml"] for case in known]),
        spacing_mm=model.space.spacing_mm,
    )


def is_known(case: Case, ranges: dict[str, tuple[float, float]]) -> bool:
    """Whether a case's scalars lie in the ranges of the training."""
    values = case.get("scalars", {})
    return all(low <= values[name] <= high for name, (low, high) in ranges.items() if name in values)


def usual_sets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return nothing, each alone, pairs with the label map or else the class, all but one, and all."""
    partner = "label_map" if "label_map" in names else names[0]
    sets = [(), *((name,) for name in names)]
    sets += [(partner, name) for name in names if name != partner]
    sets += [tuple(other for other in names if other != name) for name in names]
    return list(dict.fromkeys([*sets, tuple(names)]))


def guidance_of(
    given: Sequence[str], scale: float, weight: tuple[str, str] | None
) -> float | dict[str, float]:
    """Return one weight for all conditions together, or one of their own for the condition that has it."""
    if weight is None or weight[0] not in given:
        return scale
    others = "+".join(name for name in given if name != weight[0])
    return {weight[0]: float(weight[1]), **({others: scale} if others else {})}


def draw(
    sampler: LatentDiffusionSampler, cases: Cases, given: Sequence[str], settings: dict[str, Any]
) -> np.ndarray:
    """Draw a volume for each case with the conditions `given`; (B, X, Y, Z)."""
    strangers = sorted(set(given) - set(cases.conditions.values))
    if strangers:
        raise ValueError(f"{strangers} are no conditions: choose from {list(cases.conditions.values)}")
    conditions = Conditions(
        {name: cases.conditions.values[name] for name in given},
        {name: mask for name, mask in cases.conditions.absent.items() if name in given},
    )
    return sample(sampler, cases, conditions if given else None, settings)[:, 0].numpy()


def sample(
    sampler: LatentDiffusionSampler, cases: Cases, conditions: Conditions | None, settings: dict[str, Any]
) -> Tensor:
    """Draw on the cases' grid, one seed for all sets of conditions; (B, 1, X, Y, Z)."""
    autoencoder = sampler.model.autoencoder
    size = cases.images.shape[1:]
    shape = (
        len(cases.images),
        autoencoder.latent_channels,
        *latent_size(size, autoencoder.downsampling),
    )
    return sampler.sample(shape, conditions=conditions, size=size, **settings).float().cpu()


def write_sweep(sampler: LatentDiffusionSampler, cases: Cases, name: str, settings: dict[str, Any]) -> None:
    """Write the mean volume of fluid seen for three values of a scalar, at several weights."""
    low, high = sampler.model.conditioning_config.scalars[name]
    n = len(cases.images)
    others = {key: cases.conditions.values[key] for key in ("class",) if key in cases.conditions.values}
    write_line(["guidance", *(f"{low + share * (high - low):.0f} ml" for share in SHARES), "rises in"])
    write_line(["---:", *["---:"] * 4])
    for weight in SWEEP_WEIGHTS:
        seen = []
        for share in SHARES:
            values = {name: torch.full((n,), low + share * (high - low)), **others}
            scales = {"guidance_scale": {name: weight, **dict.fromkeys(others, 1.0)}}
            volumes = sample(sampler, cases, Conditions(values), settings | scales)[:, 0].numpy()
            seen.append([deep_fluid_ml(each, spacing_mm=cases.spacing_mm) for each in volumes])
        rises = sum(last > first for first, last in zip(seen[0], seen[-1], strict=True))
        write_line([f"{weight:g}", *(f"{np.nanmean(each):.1f} ml" for each in seen), f"{rises} of {n}"])


def compare_dropped(sampler: LatentDiffusionSampler, cases: Cases, settings: dict[str, Any]) -> float:
    """Return how far volumes whose conditions a mask drops are from volumes that never had them."""
    values, every = cases.conditions.values, torch.ones(len(cases.images), dtype=torch.bool)
    kept, *dropped = values
    plain = {**settings, "guidance_scale": 1.0}
    masked = Conditions(values, {**cases.conditions.absent, **dict.fromkeys(dropped, every)})
    absent = {kept: cases.conditions.absent[kept]} if kept in cases.conditions.absent else {}
    alone = Conditions({kept: values[kept]}, absent)
    volumes = [sample(sampler, cases, conditions, plain) for conditions in (masked, alone)]
    return float((volumes[0] - volumes[1]).abs().max())


def measure(volumes: np.ndarray, cases: Cases) -> list[str]:
    """Return the cells of a row."""
    skewness = np.array([contrast_skewness(each, spacing_mm=cases.spacing_mm) for each in volumes])
    fluid_ml = [deep_fluid_ml(each, spacing_mm=cases.spacing_mm) for each in volumes]
    agrees = np.where(np.isnan(skewness), False, (skewness > 0) == cases.is_t2)
    correlation, slope = fit_line(cases.fluid_ml, fluid_ml)
    cells = [f"{agrees.sum()} of {len(agrees)}", f"{correlation:+.2f}", f"{slope:+.2f}"]
    if cases.labels is None:
        return [*cells, "", ""]
    pairs = list(zip(volumes, cases.labels, strict=True))
    own, shuffled = (
        [map_overlap(image, labels, tissues=TISSUES) for image, labels in each]
        for each in (pairs, shuffle_labels(pairs))
    )
    for tissue in (GREY, WHITE):
        means = [np.nanmean([row[tissue] for row in rows]) if rows else np.nan for rows in (own, shuffled)]
        cells.append(f"{means[0]:.2f} ({means[1]:.2f})")
    return cells


def write_line(cells: Sequence[str]) -> None:
    """Write a line of the table at once: drawing takes a while."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
