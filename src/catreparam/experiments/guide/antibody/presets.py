"""The study: five antibodies of approved medicines, three tasks, every method at equal evaluations."""

import dataclasses
from pathlib import Path

from catreparam.experiments.guide.antibody.config import Config
from catreparam.experiments.guide.methods import OTHER_METHODS

# Variable domains as published with the medicines' names; loops by IMGT's numbering.
PUBLIC = {
    "trastuzumab_VH": (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDY"
        "WGQGTLVTVSS",
        "26-33,51-58,97-109",
    ),
    "trastuzumab_VL": (
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
        "27-32,50-52,89-97",
    ),
    "adalimumab_VH": (
        "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLD"
        "YWGQGTLVTVSS",
        "26-33,51-58,97-110",
    ),
    "pembrolizumab_VH": (
        "QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCARRDYRFDMGFDY"
        "WGQGTTVTVSS",
        "26-33,51-58,97-109",
    ),
    "caplacizumab_VHH": (
        "EVQLVESGGGLVQPGGSLRLSCAASGRTFSYNPMGWFRQAPGKGRELVAAISRTGGSTYYPDSVEGRFTISRDNAKRMVYLQMNSLRAEDTAVYYCAAAGVRAEDGRVR"
        "TLPSEYTFWGQGTQVTVSS",
        "26-33,51-58,97-117",
    ),
}

STUDY = Config(
    sequence=tuple(f"{name}={sequence}" for name, (sequence, _) in PUBLIC.items()),
    design=tuple(design for _, design in PUBLIC.values()),
    estimator=(
        "straight_through",
        "gumbel_softmax",
        "reinmax",
        "redge:t1=0.9",
        "exact_redge:t1=0.7,num_noises=4",
    ),
    rivals=tuple(OTHER_METHODS),
    num_designs=4,
    num_rounds=4,
    num_steps=10,
    pll_positions=1,
    precision="bfloat16",
)
PRESETS = {
    "study-charge": dataclasses.replace(
        STUDY, charge=8.0, kl_weights=(0.5, 2.0, 8.0), folder=Path("runs/antibody-charge")
    ),
    "study-liabilities": dataclasses.replace(
        STUDY, liabilities=0.0, charge="start", kl_weights=(0.5, 2.0, 8.0), folder=Path("runs/antibody-liabilities")
    ),
    "study-hydropathy": dataclasses.replace(
        STUDY, gravy=-1.0, kl_weights=(1.0, 3.0, 10.0), folder=Path("runs/antibody-hydropathy")
    ),
}
