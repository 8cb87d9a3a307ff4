"""Structure numbers of TotalSegmentator and FreeSurfer."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

from medldm.data.labels import LabelSchema

_TOTALSEGMENTATOR = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right
esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left
kidney_cyst_right sacrum vertebrae_S1 vertebrae_L5 vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1
vertebrae_T12 vertebrae_T11 vertebrae_T10 vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5
vertebrae_T4 vertebrae_T3 vertebrae_T2 vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4
vertebrae_C3 vertebrae_C2 vertebrae_C1 heart aorta pulmonary_vein brachiocephalic_trunk
subclavian_artery_right subclavian_artery_left common_carotid_artery_right common_carotid_artery_left
brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left superior_vena_cava
inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left
iliac_vena_right humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right
femur_left femur_right hip_left hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right
gluteus_medius_left gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left
autochthon_right iliopsoas_left iliopsoas_right brain skull rib_left_1 rib_left_2 rib_left_3 rib_left_4
rib_left_5 rib_left_6 rib_left_7 rib_left_8 rib_left_9 rib_left_10 rib_left_11 rib_left_12 rib_right_1
rib_right_2 rib_right_3 rib_right_4 rib_right_5 rib_right_6 rib_right_7 rib_right_8 rib_right_9 rib_right_10
rib_right_11 rib_right_12 sternum costal_cartilages
"""
"""Structures 1 to 117 of the task "total", version 2, in order."""

_FREESURFER = """
2 Left-Cerebral-White-Matter f5f5f5  3 Left-Cerebral-Cortex cd3e4e  4 Left-Lateral-Ventricle 781286
5 Left-Inf-Lat-Vent c43afa  7 Left-Cerebellum-White-Matter dcf8a4  8 Left-Cerebellum-Cortex e69422
10 Left-Thalamus 00760e  11 Left-Caudate 7abadc  12 Left-Putamen ec0db0  13 Left-Pallidum 0c30ff
14 3rd-Ventricle ccb68e  15 4th-Ventricle 2acca4  16 Brain-Stem 779fb0  17 Left-Hippocampus dcd814
18 Left-Amygdala 67ffff  24 CSF 3c3c3c  26 Left-Accumbens-area ffa500  28 Left-VentralDC a52a2a
30 Left-vessel a020f0  31 Left-choroid-plexus 00c8c8  41 Right-Cerebral-White-Matter 00e100
42 Right-Cerebral-Cortex cd3e4e  43 Right-Lateral-Ventricle 781286  44 Right-Inf-Lat-Vent c43afa
46 Right-Cerebellum-White-Matter dcf8a4  47 Right-Cerebellum-Cortex e69422  49 Right-Thalamus 00760e
50 Right-Caudate 7abadc  51 Right-Putamen ec0db0  52 Right-Pallidum 0d30ff  53 Right-Hippocampus dcd814
54 Right-Amygdala 67ffff  58 Right-Accumbens-area ffa500  60 Right-VentralDC a52a2a  62 Right-vessel a020f0
63 Right-choroid-plexus 00c8dd  72 5th-Ventricle 7fbed0  77 WM-hypointensities c846ff
78 Left-WM-hypointensities ff940a  79 Right-WM-hypointensities ff940a  80 non-WM-hypointensities a46ce2
81 Left-non-WM-hypointensities a46ce2  82 Right-non-WM-hypointensities a46ce2  85 Optic-Chiasm eaa91e
251 CC_Posterior 000040  252 CC_Mid_Posterior 000070  253 CC_Central 0000a0  254 CC_Mid_Anterior 0000d0
255 CC_Anterior 0000ff
"""
"""aseg.mgz: numbers, names and colours of FreeSurferColorLUT."""

_CORTEX = """
1 bankssts 196428  2 caudalanteriorcingulate 7d64a0  3 caudalmiddlefrontal 641900  5 cuneus dc1464
6 entorhinal dc140a  7 fusiform b4dc8c  8 inferiorparietal dc3cdc  9 inferiortemporal b42878
10 isthmuscingulate 8c148c  11 lateraloccipital 141e8c  12 lateralorbitofrontal 234b32  13 lingual e18c8c
14 medialorbitofrontal c8234b  15 middletemporal a06432  16 parahippocampal 14dc3c  17 paracentral 3cdc3c
18 parsopercularis dcb48c  19 parsorbitalis 146432  20 parstriangularis dc3c14  21 pericalcarine 78643c
22 postcentral dc1414  23 posteriorcingulate dcb4dc  24 precentral 3c14dc  25 precuneus a08cb4
26 rostralanteriorcingulate 50148c  27 rostralmiddlefrontal 4b327d  28 superiorfrontal 14dca0
29 superiorparietal 14b48c  30 superiortemporal 8cdcdc  31 supramarginal 50a014  32 frontalpole 640064
33 temporalpole 464646  34 transversetemporal 9696c8  35 insula ffc020
"""
"""aparc+aseg.mgz (Desikan-Killiany): 1000 and more on the left, 2000 and more on the right."""


def totalsegmentator_schema() -> LabelSchema:
    """Return the 117 structures of TotalSegmentator v2.

    Source: Wasserthal et al., Radiology: Artificial Intelligence 2023; class map "total" of version 2.
    """
    names = dict(enumerate(_TOTALSEGMENTATOR.split(), start=1))
    return LabelSchema(structures=names, colours={value: _spread_colour(value) for value in names})


def freesurfer_schema() -> LabelSchema:
    """Return the structures of FreeSurfer's aseg and aparc+aseg (Desikan-Killiany) volumes.

    Source: FreeSurferColorLUT.txt; Fischl et al., Neuron 2002; Desikan et al., NeuroImage 2006.
    """
    names: dict[int, str] = {}
    colours: dict[int, str] = {}
    parts = ((0, "", _FREESURFER), (1000, "ctx-lh-", _CORTEX), (2000, "ctx-rh-", _CORTEX))
    for offset, prefix, table in parts:
        words = iter(table.split())
        for value, name, colour in zip(words, words, words, strict=True):
            names[offset + int(value)] = prefix + name
            colours[offset + int(value)] = f"#{colour}"
    return LabelSchema(structures=names, colours=colours)


def _spread_colour(value: int) -> str:
    """Return a colour far from its neighbours': hues turn by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(value * 0.618034 % 1, 0.65, 0.95)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


PRESETS: dict[str, Callable[[], LabelSchema]] = {
    "totalsegmentator": totalsegmentator_schema,
    "freesurfer": freesurfer_schema,
}
