"""The .param codec: properties, goldens, malformed files, fuzz, and floats as ncnn reads them."""

from __future__ import annotations

import math
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.errors import FormatError
from surgery.formats.ncnn_layers import LAYER_TYPES, ParamValue
from surgery.formats.ncnn_param import (
    INT32_MAX,
    INT32_MIN,
    MAX_ARRAY_ITEMS,
    MAX_FILE_CHARACTERS,
    MAX_LINE_CHARACTERS,
    FaultKind,
    Layer,
    NcnnGraph,
    ParamFault,
    check,
    parse,
    parse_with_faults,
    read_float_as_ncnn,
    render,
    write_float_for_ncnn,
)

REPEATABLE = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)

HEADER = "7767517\n"
FLOAT32_FIFTH = float(np.float32(0.2))

# One of each spelling: an int, a float of each notation, both arrays, an unknown layer type.
GOLDEN_GRAPH = NcnnGraph(
    [
        Layer("Input", "in0", [], ["in0"]),
        Layer("Convolution", "conv_0", ["in0"], ["1"], {
            0: 16, 1: 3, 5: 1, 6: 432, 9: 2, 10: [FLOAT32_FIFTH],
        }),
        Layer("Split", "split_0", ["1"], ["2", "3"]),
        Layer("BinaryOp", "mul_0", ["2"], ["4"], {2: 16.0, 0: 2, 1: 1}),
        Layer("Crop", "crop_0", ["3"], ["5"], {9: [0], 10: [99], 11: [-1]}),
        Layer("A.Layer.With.A.Long.Type.", "own/layer:0", ["4", "5"], ["6"], {
            0: 2.0**30, 1: 2147483647, 30: [],
        }),
    ]
)  # fmt: skip
GOLDEN_TEXT = """\
7767517
6 7
Input                    in0                      0 1 in0
Convolution              conv_0                   1 1 in0 1 0=16 1=3 5=1 6=432 9=2 -23310=1,0.2
Split                    split_0                  1 2 1 2 3
BinaryOp                 mul_0                    1 1 2 4 0=2 1=1 2=16.0
Crop                     crop_0                   1 1 3 5 -23309=1,0 -23310=1,99 -23311=1,-1
A.Layer.With.A.Long.Type. own/layer:0              2 1 4 5 6 0=1.0737418e9 1=2147483647 -23330=0
"""


# ---- strategies --------------------------------------------------------------------------------

BLANKS = " \t\r\n\f\v\0"
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=BLANKS + "="),
    min_size=1,
    max_size=30,
).filter(lambda name: not (name[0].isdigit() or name[0] in "+-"))
integers = st.integers(INT32_MIN, INT32_MAX)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = st.one_of(integers, floats, st.lists(integers, max_size=6), st.lists(floats, max_size=6))
layer_params = st.dictionaries(st.integers(0, 31), values, max_size=6)


@st.composite
def valid_graphs(draw: st.DrawFn) -> NcnnGraph:
    """Layers of unknown types (known ones have rules), every blob read at most once."""
    unread: list[str] = []
    layers = []
    for number in range(draw(st.integers(1, 6))):
        inputs = [unread.pop() for _ in range(draw(st.integers(0, min(3, len(unread)))))]
        outputs = [f"{draw(names)}_{number}_{index}" for index in range(draw(st.integers(0, 3)))]
        unread += outputs
        kind = draw(names.filter(lambda name: name not in LAYER_TYPES))
        layers.append(Layer(kind, draw(names), inputs, outputs, draw(layer_params)))
    return NcnnGraph(layers)


# ---- properties --------------------------------------------------------------------------------


@REPEATABLE
@given(valid_graphs())
def test_a_rendered_graph_parses_to_itself(graph: NcnnGraph) -> None:
    text = render(graph)
    assert parse(text) == graph
    assert render(parse(text)) == text


@REPEATABLE
@given(floats)
def test_a_written_float_reads_back_exactly(value: float) -> None:
    text = write_float_for_ncnn(value)
    assert struct.pack("<f", read_float_as_ncnn(text)) == struct.pack("<f", value)
    # A reader that does it right must agree with ncnn's own arithmetic.
    assert np.float32(text) == np.float32(value)
    assert len(text) <= 15
    assert "." in text or "e" in text
    assert len(text.partition(".")[2].partition("e")[0]) <= 9


def test_graphs_that_differ_are_not_equal() -> None:
    other = parse(GOLDEN_TEXT.replace("0=2 1=1 2=16.0", "0=2 1=1 2=17.0"))
    assert other != GOLDEN_GRAPH


# ---- goldens -----------------------------------------------------------------------------------


def test_render_matches_the_golden_text() -> None:
    assert render(GOLDEN_GRAPH) == GOLDEN_TEXT


def test_parse_matches_the_golden_graph() -> None:
    assert parse(GOLDEN_TEXT) == GOLDEN_GRAPH


def test_weights_are_no_part_of_the_text() -> None:
    with_weights = parse(GOLDEN_TEXT)
    with_weights.layers[1].weights["weight"] = np.zeros((16, 3, 3, 3), np.float32)
    assert render(with_weights) == GOLDEN_TEXT
    assert with_weights == GOLDEN_GRAPH


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("16.0", "1.600000e+01"),
        lambda text: text.replace("6 7\n", "6 99\n"),
    ],
    ids=["crlf", "blank lines", "no last newline", "tabs", "printf floats", "spare blobs"],
)
def test_layout_does_not_matter(change: Callable[[str], str]) -> None:
    assert change(GOLDEN_TEXT) != GOLDEN_TEXT
    assert parse(change(GOLDEN_TEXT)) == GOLDEN_GRAPH


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.2, "0.2"),
        (1 / 3, "0.33333334"),
        (16.0, "16.0"),
        (1e-5, "1e-5"),
        (65504.0, "65504.0"),
        (2e6, "2e6"),
        (3.4028234663852886e38, "3.4028235e38"),
        (1.401298464324817e-45, "1e-45"),
        (1234567.9, "1234567.9"),
    ],
)
def test_floats_take_the_shortest_text(value: float, text: str) -> None:
    assert write_float_for_ncnn(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3.5e38, -1e300])
def test_floats_that_ncnn_cannot_read_are_refused(value: float) -> None:
    with pytest.raises(FormatError, match="finite 32-bit floats only"):
        write_float_for_ncnn(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Digits are summed in 32 bits that wrap: what a correct reader makes of these differs.
        ("4294967297.5", 1.5),
        ("99999999999999.", 276447232.0),
        ("0.1234567890123", 1.4529484510421753),
        ("1e4294967298", 100.0),
        # And these it reads as anyone would.
        ("123456789.5", 123456792.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".5E+2", 50.0),
        ("1e-400", 0.0),
    ],
)
def test_floats_are_read_with_the_arithmetic_of_ncnn(text: str, value: float) -> None:
    assert read_float_as_ncnn(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1", "not a decimal number"),
        (".", "not a decimal number"),
        ("e5", "not a decimal number"),
        ("1.0f", "not a decimal number"),
        ("1e39", "outside the range"),
        ("0.20000000298023", "more than 15 characters"),
    ],
)
def test_float_text_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_float_as_ncnn(text)


def test_ncnn_reads_the_floats_that_are_written() -> None:
    """Each as the scalar of an addition to 0, in one run of the real parser and engine."""
    ncnn = pytest.importorskip("ncnn")
    generator = random.Random(20)
    bits = [generator.getrandbits(32) for _ in range(400)] + [1, 0x007FFFFF, 0x7F7FFFFF, 0x80000001]
    numbers = [struct.unpack("<f", struct.pack("<I", each))[0] for each in bits]
    numbers = [number for number in numbers if math.isfinite(number)]
    copies = [f"x{index}" for index in range(len(numbers))]
    graph = NcnnGraph([Layer("Input", "x", [], ["x"]), Layer("Split", "s", ["x"], copies)])
    for index, number in enumerate(numbers):
        graph.layers.append(
            Layer("BinaryOp", f"b{index}", [f"x{index}"], [f"y{index}"], {0: 0, 1: 1, 2: number})
        )
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param_mem(render(graph)) == 0
    assert net.load_model_mem(b"") in (0, None)
    extractor = net.create_extractor()
    zero = np.zeros(1, np.float32)
    extractor.input("x", ncnn.Mat(zero).clone())
    for index, number in enumerate(numbers):
        code, value = extractor.extract(f"y{index}")
        assert code == 0
        assert np.array(value)[0] == number


# ---- malformed files ---------------------------------------------------------------------------

MALFORMED = {
    "empty": ("", 1, "found 'nothing'; a .param starts with the line 7767517"),
    "other magic": ("7767518\n1 1\n", 1, "found '7767518'; a .param starts with"),
    "magic and more": ("7767517 1 1\n", 1, "found '7767517 1 1'"),
    "binary": ("\0\x01\x02", 1, "a zero byte; this is not a text file"),
    "no counts": (HEADER, 2, "must hold two numbers"),
    "one count": (HEADER + "3\n", 2, "must hold two numbers"),
    "count not a number": (HEADER + "3 x\n", 2, "layer or blob count 'x' is not a number"),
    "negative count": (HEADER + "-3 1\n", 2, "layer or blob count '-3' is not a number"),
    "layer count too large": (HEADER + "2 1\nInput a 0 1 a\n", 2, "2 layers announced, 1 found"),
    "layer count too small": (
        HEADER + "1 2\nInput a 0 1 a\nInput b 0 1 b\n", 2, "1 layers announced, 2 found",
    ),
    "blob count too small": (HEADER + "1 0\nInput a 0 1 a\n", 2, "0 blobs announced, 1 found"),
    "three words": (HEADER + "1 1\nInput a 0\n", 3, "3 words; a layer has at least 4"),
    "input count not a number": (
        HEADER + "1 1\nInput a b 1 a\n", 3, "number of inputs 'b' is not a number",
    ),
    "negative output count": (
        HEADER + "1 1\nInput a 0 -1 a\n", 3, "number of outputs '-1' is not a number",
    ),
    "too many outputs": (
        HEADER + "1 1\nSplit a 0 99999 a\n", 3, "99999 inputs or outputs; at most 1024 are read",
    ),
    "missing blob": (HEADER + "1 2\nReLU a 1 1 x\n", 3, "fewer blob names than the 1 inputs and 1"),
    "key for a blob": (HEADER + "1 2\nReLU a 1 1 x 0=1.0\n", 3, "fewer blob names than the 1"),
    "blob too many": (HEADER + "1 2\nReLU a 1 1 x y z\n", 3, "'z' is not key=value"),
    "blank in a value": (HEADER + "1 1\nClip a 0 1 x 0= 1.0\n", 3, "key 0: '' is neither"),
    "key not a number": (HEADER + "1 1\nClip a 0 1 x k=1\n", 3, "'k=1' is not key=value"),
    "key 32": (HEADER + "1 1\nClip a 0 1 x 32=1\n", 3, "key 32 is outside 0..31"),
    "negative key": (HEADER + "1 1\nClip a 0 1 x -1=1\n", 3, "key -1 is outside 0..31"),
    "array key 32": (HEADER + "1 1\nClip a 0 1 x -23332=1,1\n", 3, "key -23332 is outside 0..31"),
    "key twice": (HEADER + "1 1\nClip a 0 1 x 0=1 0=2\n", 3, "key 0 is given twice"),
    "integer too large": (
        HEADER + "1 1\nClip a 0 1 x 0=2147483648\n", 3, "key 0: '2147483648' is neither a 32-bit",
    ),
    "not a number": (HEADER + "1 1\nClip a 0 1 x 0=1x\n", 3, "key 0: '1x' is neither"),
    "hexadecimal": (HEADER + "1 1\nClip a 0 1 x 0=0x10\n", 3, "key 0: '0x10' is neither"),
    "bad float": (HEADER + "1 1\nClip a 0 1 x 0=1.0.0\n", 3, "key 0: '1.0.0' is not a decimal"),
    "no digits": (HEADER + "1 1\nClip a 0 1 x 0=-.\n", 3, "key 0: '-.' is not a decimal"),
    "infinite": (HEADER + "1 1\nClip a 0 1 x 0=inf\n", 3, "key 0: 'inf' is a string"),
    "string": (HEADER + '1 1\nClip a 0 1 x 0="1w"\n', 3, "is a string, which ncnn reads from 2025"),
    "float too large": (HEADER + "1 1\nClip a 0 1 x 0=1e39\n", 3, "outside the range of a 32-bit"),
    "value too long": (
        HEADER + "1 1\nClip a 0 1 x 0=0.20000000298023\n", 3,
        "key 0: '0.20000000298023' has 16 characters; ncnn reads 15",
    ),
    "fraction too long": (
        HEADER + "1 1\nClip a 0 1 x 0=0.2000000029\n", 3, "more digits than ncnn sums in 32 bits",
    ),
    "whole part too long": (
        HEADER + "1 1\nClip a 0 1 x 0=4294967297.5\n", 3, "more digits than ncnn sums in 32 bits",
    ),
    "array without commas": (
        HEADER + "1 1\nClip a 0 1 x -23300=2\n", 3, "key -23300: 2 items announced, 0 found",
    ),
    "array too short": (
        HEADER + "1 1\nClip a 0 1 x -23300=3,1,2\n", 3, "key -23300: 3 items announced, 2 found",
    ),
    "array too long": (
        HEADER + "1 1\nClip a 0 1 x -23300=1,1,2\n", 3, "key -23300: 1 items announced, 2 found",
    ),
    "array of nothing": (HEADER + "1 1\nClip a 0 1 x -23300=1,\n", 3, "key -23300: '' is neither"),
    "huge array length": (
        HEADER + "1 1\nClip a 0 1 x -23300=99999999999,1\n", 3, "array length '99999999999' is not",
    ),
    "mixed array": (
        HEADER + "1 1\nClip a 0 1 x -23300=2,1,2.0\n", 3, "integers and floats in one array",
    ),
    "array of 2025": (
        HEADER + "1 1\nClip a 0 1 x 3=1,2\n", 3, "reads an array only as -23303=count,values",
    ),
    "long blob name": (
        HEADER + f"1 1\nClip a 0 1 {'x' * 256}\n", 3, "has 256 bytes; ncnn reads 255",
    ),
    "long line": (
        HEADER + "1 1\n" + " " * (MAX_LINE_CHARACTERS + 1), 3, "a line of 131073 characters",
    ),
    "long array": (
        HEADER + f"1 1\nA a 0 0 -23300={MAX_ARRAY_ITEMS + 1}" + ",1" * (MAX_ARRAY_ITEMS + 1), 3,
        "4097 items; at most 4096 are read",
    ),
    "huge file": (
        HEADER + "\n" * MAX_FILE_CHARACTERS, 1, "16777224 characters; at most 16777216 are read",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_refused_with_place_and_reason(
    text: str, line: int, reason: str
) -> None:
    with pytest.raises(FormatError) as caught:
        parse(text, "flownet.param")
    assert str(caught.value).startswith(f"flownet.param, line {line}: ")
    assert reason in str(caught.value)


REPAIRABLE: dict[str, tuple[str, str, ParamValue, FaultKind]] = {
    "layer count too large": ("9 2", "0=1", 1, FaultKind.LAYER_COUNT),
    "blob count too small": ("2 1", "0=1", 1, FaultKind.BLOB_COUNT),
    "value too long": ("2 2", "0=0.20000000298023224", FLOAT32_FIFTH, FaultKind.LONG_VALUE),
    "fraction too long": ("2 2", "0=0.2000000029", FLOAT32_FIFTH, FaultKind.LONG_VALUE),
    "key twice": ("2 2", "0=3 0=4", 4, FaultKind.KEY_TWICE),
    "array of 2025": ("2 2", "0=1,2,", [1, 2], FaultKind.NEW_ARRAY),
    "mixed array": ("2 2", "-23300=2,1,2.5", [1.0, 2.5], FaultKind.MIXED_ARRAY),
}


@pytest.mark.parametrize(
    ("counts", "written", "meant", "kind"), REPAIRABLE.values(), ids=REPAIRABLE.keys()
)
def test_what_was_meant_is_read_and_rendered_correctly(
    counts: str, written: str, meant: ParamValue, kind: FaultKind
) -> None:
    text = f"{HEADER}{counts}\nInput a 0 1 a\nOther b 1 1 a b {written}\n"
    with pytest.raises(FormatError):
        parse(text)
    graph, faults = parse_with_faults(text, "f.param")
    assert [fault.kind for fault in faults] == [kind]
    assert graph.layers[1].params == {0: meant}
    assert parse(render(graph)) == graph


def test_a_name_that_ncnn_would_cut_is_told() -> None:
    text = f"{HEADER}2 2\nInput a 0 1 a\nOther {'b' * 256} 1 1 a c\n"
    _, faults = parse_with_faults(text)
    assert [fault.kind for fault in faults] == [FaultKind.LONG_NAME]


def test_a_sound_file_has_no_faults() -> None:
    assert parse_with_faults(GOLDEN_TEXT) == (GOLDEN_GRAPH, [])


# ---- checking ----------------------------------------------------------------------------------


def _chain(*middle: Layer) -> NcnnGraph:
    return NcnnGraph([Layer("Input", "in", [], ["x"]), *middle])


def _other(name: str = "n", **changes: object) -> Layer:
    fields: dict[str, object] = {"type": "Other", "inputs": ["x"], "outputs": ["y"], **changes}
    return Layer(name=name, **fields)  # type: ignore[arg-type]


FAULTY = {
    "no layers": (NcnnGraph(), "no layers"),
    "missing split": (
        _chain(_other("a", outputs=["y"]), _other("b", outputs=["z"])), "blob x is read 2 times",
    ),
    "read twice by one layer": (_chain(_other(inputs=["x", "x"])), "blob x is read 2 times"),
    "no producer": (_chain(_other(inputs=["w"])), "reads w, which is made by no layer"),
    "producer later": (
        _chain(_other("a", inputs=["z"]), _other("b", outputs=["z"])),
        "Other a: reads z, which is made only later",
    ),
    "own output": (_chain(_other(inputs=["y"])), "reads y, which is made only later"),
    "two producers": (_chain(_other(outputs=["x"])), "makes x, as Input in does"),
    "output twice": (_chain(_other(outputs=["y", "y"])), "makes y, as Other n does"),
    "empty name": (_chain(_other(name="")), "the name '' is empty or holds a blank"),
    "blank in a name": (_chain(_other(name="a b")), "the name 'a b' is empty or holds a blank"),
    "newline in a blob": (_chain(_other(outputs=["a\nb"])), "is empty or holds a blank"),
    "long name": (_chain(_other(name="\u00e9" * 128)), "has 256 bytes; ncnn reads 255"),
    "surrogate": (_chain(_other(name="\ud800")), "cannot be written as UTF-8"),
    "blob like a key": (_chain(_other(outputs=["0=1"])), "'0=1' looks like key=value"),
    "numeric type": (_chain(_other(type="3D")), "a type that starts like a number"),
    "key 32": (_chain(_other(params={32: 1})), "key 32 is outside 0..31"),
    "nan": (_chain(_other(params={0: math.nan})), "nan is not a finite 32-bit float"),
    "double": (_chain(_other(params={0: 1e300})), "1e+300 is not a finite 32-bit float"),
    "large integer": (_chain(_other(params={0: 2**31})), "2147483648 is no 32-bit integer"),
    "numpy value": (_chain(_other(params={0: np.float32(1)})), "is a float32; int, float and"),
    "string value": (_chain(_other(params={0: "1"})), "'1' is a str; int, float and lists"),
    "mixed array": (_chain(_other(params={0: [1, 2.0]})), "integers and floats in one array"),
    "long array": (_chain(_other(params={0: [1] * 4097})), "4097 items; at most 4096"),
    "too many outputs": (_chain(_other(outputs=[f"b{i}" for i in range(1025)])), "more than 1024"),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "fault"), FAULTY.values(), ids=FAULTY.keys())
def test_check_names_the_fault_and_render_refuses_it(graph: NcnnGraph, fault: str) -> None:
    faults = check(graph)
    assert len(faults) == 1
    assert fault in str(faults[0])
    with pytest.raises(FormatError, match="1 fault\\(s\\) in the graph"):
        render(graph)


def test_a_faulty_structure_is_read_all_the_same() -> None:
    text = f"{HEADER}3 3\nInput a 0 1 x\nReLU b 1 1 x y\nReLU c 1 1 x z\n"
    assert check(parse(text)) == [
        ParamFault(
            FaultKind.MISSING_SPLIT,
            "blob x is read 2 times; ncnn frees it after the first, so a Split must make "
            "the copies",
        )
    ]


def test_render_lists_every_fault() -> None:
    graph = _chain(_other("a", params={40: 1, 0: math.inf}), _other("b", outputs=["y"]))
    with pytest.raises(FormatError, match=r"4 fault\(s\)") as caught:
        render(graph)
    assert len(str(caught.value).splitlines()) == 5


# ---- fuzz --------------------------------------------------------------------------------------


@st.composite
def damaged_texts(draw: st.DrawFn) -> str:
    text = GOLDEN_TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 8))
        patch = draw(st.one_of(st.text(max_size=6), st.text("0123456789.,=-e \n", max_size=12)))
        text = text[:start] + patch + text[end:]
    return text


@settings(REPEATABLE, max_examples=600)
@given(st.one_of(damaged_texts(), st.text().map(lambda tail: f"{HEADER}1 1\n{tail}"), st.text()))
def test_no_text_raises_anything_but_format_error(text: str) -> None:
    try:
        graph, _ = parse_with_faults(text)
        rendered = render(graph)
    except FormatError:
        return
    assert parse(rendered) == graph


# ---- published graphs --------------------------------------------------------------------------


def test_published_graphs_survive_a_round_trip() -> None:
    folder = os.environ.get("SURGERY_PUBLISHED")
    if not folder:
        pytest.skip("SURGERY_PUBLISHED names no folder of published .param files")
    paths = sorted(Path(folder).glob("*.param"))
    assert paths
    for path in paths:
        graph = parse(path.read_text(encoding="utf-8"), path.name)
        assert check(graph) == []
        assert parse(render(graph)) == graph
