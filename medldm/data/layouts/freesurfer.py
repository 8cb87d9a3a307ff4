"""Read FreeSurfer's subject folders: <subject>/mri/T1.mgz with aseg.mgz.

Source: FreeSurfer wiki, ReconAllOutputFiles; Fischl, NeuroImage 2012.
"""

from __future__ import annotations

from pathlib import Path

from medldm.data.issues import Issue
from medldm.data.layouts.label_names import names_from_maps
from medldm.data.layouts.records import Layout, Scan
from medldm.data.layouts.trees import with_subjects
from medldm.data.preparation.presets import freesurfer_schema

NAME = "FreeSurfer"
IMAGE, LABEL = "T1.mgz", "aseg.mgz"


def is_freesurfer(root: Path) -> bool:
    """Tell the layout by <subject>/mri/*.mgz."""
    return next(root.glob("*/mri/*.mgz"), None) is not None


def read_freesurfer(root: Path) -> Layout:
    """Read the subjects' folders in `root`: T1.mgz is the image and aseg.mgz the label map, by their names.

    aparc+aseg.mgz and all other volumes are passed over, with a count.
    """
    scans: list[Scan] = []
    problems: list[Issue] = []
    n_others = 0
    for folder in sorted(root.glob("*/mri")):
        subject = folder.parent.name
        volumes = {path.name: path for path in sorted(folder.glob("*.mgz")) if not path.name.startswith(".")}
        if subject == "fsaverage" or not volumes:
            n_others += len(volumes)
            continue
        if IMAGE not in volumes:
            message = f"it has no {IMAGE}; finish recon-all, or leave the folder out"
            problems.append(Issue.error("missing", f"{subject}/mri/", message))
            continue
        n_others += len(volumes.keys() - {IMAGE, LABEL})
        scans.append(
            Scan(name=subject, subject=subject, images={"": volumes[IMAGE]}, label=volumes.get(LABEL))
        )
    scans = with_subjects(scans)
    if n_others:
        message = f"{n_others} volumes are passed over; {IMAGE} is the image and {LABEL} its label map"
        problems.append(Issue.warning("layout", ".", message))
    maps = [scan.label for scan in scans if isinstance(scan.label, Path)]
    schema, conflicts = names_from_maps(maps, root=root)
    return Layout(
        name=NAME,
        root=root,
        scans=tuple(scans),
        schema=schema or (freesurfer_schema() if maps else None),
        problems=(*problems, *conflicts),
    )
