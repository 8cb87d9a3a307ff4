"""The names that public data sets give their files: every map finds its scans, every scan its person."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from medldm.data.layouts.names import read_names
from medldm.data.layouts.pairing import pair_labels
from medldm.data.layouts.subjects import decide_subjects


@dataclass(frozen=True)
class Expected:
    """What the names of a data set say."""

    n_labelled: int
    subjects: tuple[str, ...]


def spell(pattern: str, *choices: str) -> list[str]:
    """Fill a pattern with every combination of the words of `choices`."""
    return [pattern.format(*words) for words in product(*(choice.split(",") for choice in choices))]


DATA_SETS = {
    "KiTS": (
        spell("case_0000{}/{}", "0,1", "imaging,segmentation"),
        Expected(2, ("case_00000", "case_00001")),
    ),
    "LiTS": (spell("{1}-{0}", "0,1,2", "volume,segmentation"), Expected(3, ("0", "1", "2"))),
    "BTCV": (
        spell("{}/img000{}", "img", "1,2") + spell("{}/label000{}", "label", "1,2"),
        Expected(2, ("0001", "0002")),
    ),
    "AMOS": (spell("{}/amos_000{}", "imagesTr,labelsTr", "1,2"), Expected(2, ("amos_0001", "amos_0002"))),
    "ACDC": (
        spell("patient00{0}/patient00{0}_frame{1}{2}", "1", "01,12", ",_gt")
        + spell("patient00{0}/patient00{0}_frame{1}{2}", "2", "01,10", ",_gt"),
        Expected(4, ("patient001", "patient002")),
    ),
    "VerSe": (
        spell("rawdata/sub-verse00{0}/sub-verse00{0}_ct", "4,5")
        + spell("derivatives/sub-verse00{0}/sub-verse00{0}_seg-vert_msk", "4,5"),
        Expected(2, ("sub-verse004", "sub-verse005")),
    ),
    "IBSR": (spell("IBSR_0{0}/IBSR_0{0}_{1}", "1,2", "ana,seg_ana"), Expected(2, ("IBSR_01", "IBSR_02"))),
    "IXI": (
        spell("IXI00{}-Guys-0828-{}", "2,3", "T1,T2"),
        Expected(0, ("IXI002-Guys-0828", "IXI003-Guys-0828")),
    ),
    "BraTS 2021": (
        spell("BraTS2021_0000{0}/BraTS2021_0000{0}_{1}", "0,2", "t1,t1ce,t2,flair,seg"),
        Expected(8, ("BraTS2021_00000", "BraTS2021_00002")),
    ),
    "BraTS 2023": (
        spell("BraTS-GLI-0000{0}-00{1}/BraTS-GLI-0000{0}-00{1}-{2}", "0,2", "0,1", "t1n,t1c,seg"),
        Expected(8, ("BraTS-GLI-00000", "BraTS-GLI-00002")),
    ),
    "ISLES 2022": (
        spell("sub-s000{0}/ses-0001/dwi/sub-s000{0}_ses-0001_{1}", "1,2", "dwi,adc")
        + spell("derivatives/sub-s000{0}/ses-0001/sub-s000{0}_ses-0001_msk", "1,2"),
        Expected(4, ("sub-s0001", "sub-s0002")),
    ),
    "OASIS": (spell("OAS1_000{}_MR{}", "1,2", "1,2"), Expected(0, ("OAS1_0001", "OAS1_0002"))),
    "ADNI": (
        ["002_S_0295_20060418", "002_S_0295_20070501", "002_S_0413_20060502"],
        Expected(0, ("002_S_0295", "002_S_0413")),
    ),
    "MM-WHS": (
        spell("ct_train/ct_train_100{}_{}", "1,2", "image,label"),
        Expected(2, ("train_1001", "train_1002")),
    ),
    "PROMISE12": (spell("Case0{}{}", "0,1", ",_segmentation"), Expected(2, ("Case00", "Case01"))),
    "UPENN-GBM": (
        spell("UPENN-GBM-0000{0}_11/UPENN-GBM-0000{0}_11_{1}", "1,2", "T1,FLAIR,segm"),
        Expected(4, ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11")),
    ),
    "SynthRAD": (spell("1BA00{}/{}", "1,5", "ct,mr,mask"), Expected(4, ("1BA001", "1BA005"))),
    "FLARE22": (
        spell("images/FLARE22_Tr_000{}_0000", "1,2") + spell("labels/FLARE22_Tr_000{}", "1,2"),
        Expected(2, ("FLARE22_Tr_0001", "FLARE22_Tr_0002")),
    ),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_maps_and_persons_of_public_data_sets(name: str) -> None:
    files, expected = DATA_SETS[name]
    names = read_names(Path(f"{file}.nii.gz") for file in files)
    images = [name for name in names.values() if not name.is_label]
    pairs = pair_labels(images, {path: name for path, name in names.items() if name.is_label})
    subjects = decide_subjects(images)
    assert not (pairs.contested or pairs.lost or subjects.unsure)
    assert len(pairs.labels) == expected.n_labelled
    assert tuple(sorted(set(subjects.names))) == expected.subjects
