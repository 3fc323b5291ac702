"""Numbers that stand in C++ and in Python are the same: interface.h, library.py, methods.py."""

import re
from pathlib import Path

from catreparam.kernels.compiled import library, update
from catreparam.kernels.methods import Rule
from catreparam.kernels.plan import Evaluation, Interval

HEADER = (Path(library.__file__).parent / "interface.h").read_text(encoding="utf-8")


def enumerators(name):
    body = re.search(rf"enum {name} : int32_t {{(.*?)}}", HEADER, re.S)[1]
    return {key: int(value) for key, value in re.findall(r"k(\w+) = (\d+)", body)}


def constant(name):
    return re.search(rf"constexpr \w+ {name} = ([^;]+);", HEADER)[1]


def test_rules_have_the_numbers_of_the_header():
    assert {rule.name: rule.value for rule in Rule} == {key.upper(): n for key, n in enumerators("Rule").items()}
    assert set(Rule) >= library.RULES


def test_dtypes_and_flags_are_those_of_the_header():
    names = {str(dtype).removeprefix("torch.").capitalize(): number for dtype, number in library.DTYPES.items()}
    assert names == enumerators("Dtype")
    flags = enumerators("Flag")
    assert flags.pop("FlagNoMemory") == library.NO_MEMORY
    assert sum(flags.values()) == library.INVALID


def test_sizes_and_the_version_are_those_of_the_header():
    assert int(constant("kVersion")) == library.VERSION
    assert eval(constant("kSmallRoom")) == library.SMALL_ROOM
    assert int(constant("kMostSpare")) == library.MOST_SPARE
    assert constant("kLargestSeed") == "(uint64_t{1} << 63) - 1"
    assert library.LARGEST_SEED == 2**63 - 1


def test_the_tables_have_the_columns_of_the_header():
    columns = re.search(r"evaluations;  // \[num_evaluations\]\[8\]: (.*)", HEADER)[1]
    assert tuple(columns.split(", ")) == Evaluation._fields
    assert tuple(re.search(r"intervals;    // \[num_intervals\]\[3\]: (.*)", HEADER)[1].split(", ")) == Interval._fields


def test_the_setting_has_the_fields_of_the_header():
    body = re.search(r"struct CatreparamSetting {(.*?)};", HEADER, re.S)[1]
    declared = [
        name.strip() for line in re.findall(r"^\s*[\w ]+[ *]([\w, ]+);", body, re.M) for name in line.split(", ")
    ]
    assert declared == [name for name, _ in library._CSetting._fields_]


def test_the_step_of_guidance_has_the_fields_of_the_header():
    body = re.sub(r"//.*", "", re.search(r"struct Update {(.*?)};", HEADER, re.S)[1])
    declared = [
        name.strip(" *")
        for line in re.findall(r"(?:const )?\w+_t\*? ([^;]+);|(?:const )?float ?\*? ?([^;]+);", body)
        for name in "".join(line).split(",")
    ]
    assert declared == [name for name, _ in update._CUpdate._fields_]
    assert enumerators("UpdatePass") == {"AddDivergence": update.ADD_DIVERGENCE, "Move": update.MOVE}
