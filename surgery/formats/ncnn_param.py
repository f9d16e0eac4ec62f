"""ncnn's text graph, the `.param` file: read, checked and written.

Source: ncnn net.cpp (`Net::load_param`) and paramdict.cpp (`ParamDict::load_param`), as of July
2022, which is what rife-ncnn-vulkan bundles. Later ncnn reads everything that is written here.
"""

from __future__ import annotations

import enum
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgery.errors import FormatError
from surgery.formats.ncnn_layers import LAYER_TYPES, MANY, Kind, LayerType, ParamId, ParamValue

if TYPE_CHECKING:
    import numpy as np

MAGIC = 7767517
ARRAY_KEY_OFFSET = 23300  # key -(23300 + k) announces an array of key k
MAX_KEYS = 32  # NCNN_MAX_PARAM_COUNT; the builds of 2022 and of today agree
MAX_VALUE_CHARACTERS = 15  # paramdict.cpp scans each value into char[16]
MAX_FRACTION_DIGITS = 9  # they are summed in a 32-bit integer
MAX_NAME_BYTES = 255  # net.cpp scans names into char[256]
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
_UINT32 = 2**32

# Far above any real graph (the largest published one has 612 layers), far below what hurts.
MAX_FILE_CHARACTERS = 16 * 2**20
MAX_LINE_CHARACTERS = 2**17
MAX_LAYERS = 100_000
MAX_ARRAY_ITEMS = 4096

_BLANKS = re.compile(r"[ \t\r\f\v]+")
_COUNT = re.compile(r"[0-9]{1,9}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,14}")
_FLOAT = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?)([0-9]+))?")
_KEY_AND_VALUE = re.compile(r"(-?[0-9]{1,9})=(.*)", re.DOTALL)


@dataclass
class Layer:
    """One layer. Keys of `params` are the plain ids (an array has the id k, not -23300 - k).

    A float is written as the nearest float32, so that is what reading it back gives.
    `weights` holds float32 arrays by the names and shapes that `ncnn_layers` lists; they are no
    part of the text, so two layers compare equal whatever their weights.
    """

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, ParamValue] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)


class FaultKind(enum.Enum):
    """What is wrong with a `.param` that was read all the same, or with a graph."""

    LAYER_COUNT = enum.auto()
    BLOB_COUNT = enum.auto()
    LONG_VALUE = enum.auto()
    KEY_TWICE = enum.auto()
    NEW_ARRAY = enum.auto()
    MIXED_ARRAY = enum.auto()
    LONG_NAME = enum.auto()
    MISSING_SPLIT = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class ParamFault:
    """One fault: its kind, and a sentence on what was found."""

    kind: FaultKind
    what: str

    def __str__(self) -> str:
        """The sentence."""
        return self.what


@dataclass
class NcnnGraph:
    """Layers in the order in which they run."""

    layers: list[Layer] = field(default_factory=list)

    @property
    def blob_count(self) -> int:
        """The number of distinct blob names, produced or not: what ncnn must allocate."""
        return len({blob for layer in self.layers for blob in (*layer.inputs, *layer.outputs)})

    def count_consumers(self) -> Counter[str]:
        """How many layer inputs read each blob (one layer reading it twice counts as two)."""
        return Counter(blob for layer in self.layers for blob in layer.inputs)

    def find_producers(self) -> dict[str, Layer]:
        """The layer that makes each blob."""
        return {blob: layer for layer in self.layers for blob in layer.outputs}


# ---- floats ------------------------------------------------------------------------------------


def read_float_as_ncnn(text: str) -> float:
    """The float32 that ncnn makes of `text`, by its own digit arithmetic.

    ncnn does not call strtod: the integer digits and the fraction digits are each summed in an
    unsigned 32-bit integer that wraps, joined and scaled in double, and rounded to float32.

    Source: ncnn paramdict.cpp, `vstr_to_float`.

    Raises:
        FormatError: `text` is longer than ncnn's buffer, or no decimal number with a point or an
            exponent, or the number is no finite float32.
    """
    if len(text) > MAX_VALUE_CHARACTERS:
        raise FormatError(f"{text[:40]!r} has more than {MAX_VALUE_CHARACTERS} characters")
    match = _FLOAT.fullmatch(text)
    if match is None or not _looks_like_float(text) or not (match[2] or match[3]):
        raise FormatError(f"{text!r} is not a decimal number with a point or an exponent")
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    value = float(_sum_digits(whole))
    if fraction:
        value += _sum_digits(fraction) / (10 ** len(fraction) % _UINT32)
    if exponent:
        value = _scale_by_exponent(value, exponent_sign == "-", _sum_digits(exponent))
    rounded = _round_to_float32(-value if sign == "-" else value)
    if rounded is None:
        raise FormatError(f"{text!r} is outside the range of a 32-bit float")
    return rounded


def write_float_for_ncnn(value: float) -> str:
    """The shortest text from which ncnn reads the float32 nearest to `value`.

    At most 15 characters, with a point or an exponent. 9 significant digits always suffice.
    Between equally short texts the one without an exponent is taken.

    Raises:
        FormatError: `value` is not finite, or too large for a float32.
    """
    target = _round_to_float32(value)
    if target is None:
        raise FormatError(f"{value!r} cannot be written: ncnn reads finite 32-bit floats only")
    texts = sorted(set(_float_texts(target)), key=lambda text: (len(text), "e" in text, text))
    for text in texts:
        if len(text) <= MAX_VALUE_CHARACTERS and _reads_back(text, target):
            return text
    raise FormatError(f"{value!r} has no text of {MAX_VALUE_CHARACTERS} characters")


def _float_texts(value: float) -> Iterator[str]:
    for digits in range(MAX_FRACTION_DIGITS + 1):
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        yield f"{mantissa}e{int(exponent)}"
        if digits and abs(value) < _UINT32:
            yield f"{value:.{digits}f}"


def _reads_back(text: str, value: float) -> bool:
    try:
        read = read_float_as_ncnn(text)
    except FormatError:
        return False
    return read == value and math.copysign(1, read) == math.copysign(1, value)


def _sum_digits(digits: str) -> int:
    return int(digits or "0") % _UINT32


def _scale_by_exponent(value: float, is_negative: bool, exponent: int) -> float:
    # Beyond this every float32 is 0 or infinite, and ncnn would loop for as long as it takes.
    steps, rest = divmod(min(exponent, 400), 8)
    scale = 1.0
    for factor in [1e8] * steps + [10.0] * rest:
        scale *= factor
    return value / scale if is_negative else value * scale


def _fits_digit_sums(whole: str, fraction: str) -> bool:
    return int(whole or "0") < _UINT32 and len(fraction) <= MAX_FRACTION_DIGITS


def _round_to_float32(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return None


def _looks_like_float(text: str) -> bool:
    return "." in text or "e" in text.lower()


# ---- reading -----------------------------------------------------------------------------------


def parse(text: str, source: str = "<param>") -> NcnnGraph:
    """Read a `.param`; `source` is the name that errors give it.

    The structure is not judged here (`check` does that), so a graph with a missing Split or an
    unknown layer can be read and repaired.

    Raises:
        FormatError: the text breaks the format; the message has file, line and reason.
    """
    graph, faults = parse_with_faults(text, source)
    if faults:
        raise FormatError(str(faults[0]))
    return graph


def parse_with_faults(text: str, source: str = "<param>") -> tuple[NcnnGraph, list[ParamFault]]:
    """Read a `.param` that ncnn would misread, and list why.

    Tolerated, and listed: wrong counts in the second line, values longer than ncnn's buffer or
    with more digits than it can sum, a key given twice, `K=v,v` arrays, arrays that mix integers
    and floats, names that are too long. The graph returned is what was meant, and `render` writes
    it correctly.

    Raises:
        FormatError: what was meant cannot be told.
    """
    return _Parser(source).parse(text)


class _Parser:
    """Holds the place in the file, so that every fault can name it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.line = 0
        self.faults: list[ParamFault] = []

    def parse(self, text: str) -> tuple[NcnnGraph, list[ParamFault]]:
        if len(text) > MAX_FILE_CHARACTERS:
            raise self.error(f"{len(text)} characters; at most {MAX_FILE_CHARACTERS} are read")
        lines = self.split_lines(text)
        self.parse_magic(next(lines, []))
        layer_count, blob_count = self.parse_counts(next(lines, []))
        header_line = self.line
        layers: list[Layer] = []
        for words in lines:
            if len(layers) == MAX_LAYERS:
                raise self.error(f"more than {MAX_LAYERS} layers")
            layers.append(self.parse_layer(words))
        graph = NcnnGraph(layers)
        self.line = header_line
        self.compare_counts(graph, layer_count, blob_count)
        return graph, self.faults

    def error(self, reason: str) -> FormatError:
        return FormatError(f"{self.source}, line {max(self.line, 1)}: {reason}")

    def note(self, kind: FaultKind, reason: str) -> None:
        self.faults.append(ParamFault(kind, str(self.error(reason))))

    def split_lines(self, text: str) -> Iterator[list[str]]:
        for number, line in enumerate(text.split("\n"), start=1):
            self.line = number
            if len(line) > MAX_LINE_CHARACTERS:
                raise self.error(
                    f"a line of {len(line)} characters; the limit is {MAX_LINE_CHARACTERS}"
                )
            if "\0" in line:
                raise self.error("a zero byte; this is not a text file")
            words = [word for word in _BLANKS.split(line) if word]
            if words:
                yield words

    def parse_magic(self, words: list[str]) -> None:
        if words != [str(MAGIC)]:
            found = " ".join(words)[:40] if words else "nothing"
            raise self.error(f"found {found!r}; a .param starts with the line {MAGIC}")

    def parse_counts(self, words: list[str]) -> tuple[int, int]:
        if len(words) != 2:
            raise self.error("the second line must hold two numbers: layers and blobs")
        layers, blobs = (self.parse_count(word, "layer or blob count") for word in words)
        return layers, blobs

    def parse_count(self, word: str, what: str) -> int:
        if not _COUNT.fullmatch(word):
            raise self.error(f"{what} {word[:40]!r} is not a number from 0 to 999999999")
        return int(word)

    def parse_layer(self, words: list[str]) -> Layer:
        if len(words) < 4:
            raise self.error(
                f"{len(words)} words; a layer has at least 4: type, name, number of "
                "inputs, number of outputs"
            )
        inputs = self.parse_count(words[2], "number of inputs")
        outputs = self.parse_count(words[3], "number of outputs")
        if max(inputs, outputs) > MANY:
            raise self.error(f"{max(inputs, outputs)} inputs or outputs; at most {MANY} are read")
        start = 4 + inputs
        end = start + outputs
        names = words[4:end]
        if len(names) < inputs + outputs or any(_KEY_AND_VALUE.fullmatch(name) for name in names):
            raise self.error(
                f"fewer blob names than the {inputs} inputs and {outputs} outputs announced"
            )
        for name in (words[0], words[1], *names):
            self.note_name(name)
        params = self.parse_params(words[end:])
        return Layer(words[0], words[1], words[4:start], words[start:end], params)

    def note_name(self, name: str) -> None:
        if fault := _find_name_fault(name):
            self.note(fault.kind, fault.what)

    def parse_params(self, words: list[str]) -> dict[int, ParamValue]:
        params: dict[int, ParamValue] = {}
        for word in words:
            key, value = self.parse_param(word)
            if key in params:
                self.note(FaultKind.KEY_TWICE, f"key {key} is given twice; ncnn takes the last")
            params[key] = value
        return params

    def parse_param(self, word: str) -> tuple[int, ParamValue]:
        match = _KEY_AND_VALUE.fullmatch(word)
        if match is None:
            raise self.error(
                f"{word[:40]!r} is not key=value (more blob names than announced, or "
                "a blank inside a value?)"
            )
        key = int(match[1])
        is_array = key <= -ARRAY_KEY_OFFSET
        if is_array:
            key = -key - ARRAY_KEY_OFFSET
        if not 0 <= key < MAX_KEYS:
            raise self.error(f"key {match[1]} is outside 0..{MAX_KEYS - 1} and the array keys")
        if is_array:
            return key, self.parse_array(match[1], match[2])
        if "," in match[2]:
            self.note(
                FaultKind.NEW_ARRAY,
                f"{word[:40]!r}: ncnn before 2025 reads an array only as "
                f"{-ARRAY_KEY_OFFSET - key}=count,values",
            )
            return key, self.parse_items(match[1], match[2].rstrip(",").split(","))
        return key, self.parse_value(match[1], match[2])

    def parse_array(self, key: str, text: str) -> list[int] | list[float]:
        count, *items = text.split(",")
        announced = self.parse_count(count, f"key {key}: array length")
        if announced != len(items):
            raise self.error(f"key {key}: {announced} items announced, {len(items)} found")
        return self.parse_items(key, items)

    def parse_items(self, key: str, items: list[str]) -> list[int] | list[float]:
        if len(items) > MAX_ARRAY_ITEMS:
            raise self.error(f"key {key}: {len(items)} items; at most {MAX_ARRAY_ITEMS} are read")
        values = [self.parse_value(key, item) for item in items]
        integers = [value for value in values if isinstance(value, int)]
        if len(integers) == len(values):
            return integers
        if integers:
            self.note(FaultKind.MIXED_ARRAY, _describe_mixed_array(key))
        return [float(value) for value in values]

    def parse_value(self, key: str, text: str) -> int | float:
        if len(text) > MAX_VALUE_CHARACTERS:
            self.note(
                FaultKind.LONG_VALUE,
                f"key {key}: {text[:40]!r} has {len(text)} characters; ncnn reads "
                f"{MAX_VALUE_CHARACTERS} and takes the rest for something else",
            )
        if text[:1].isalpha() or text[:1] == '"':
            raise self.error(
                f"key {key}: {text[:40]!r} is a string, which ncnn reads from 2025 "
                "on and no RIFE graph needs; numbers are accepted"
            )
        if _looks_like_float(text):
            return self.parse_float(key, text)
        if not _INTEGER.fullmatch(text) or not INT32_MIN <= int(text) <= INT32_MAX:
            raise self.error(
                f"key {key}: {text[:40]!r} is neither a 32-bit integer nor a decimal number"
            )
        return int(text)

    def parse_float(self, key: str, text: str) -> float:
        match = _FLOAT.fullmatch(text)
        if match is None or not (match[2] or match[3]):
            raise self.error(f"key {key}: {text[:40]!r} is not a decimal number")
        if len(text) <= MAX_VALUE_CHARACTERS and not _fits_digit_sums(match[2], match[3] or ""):
            self.note(
                FaultKind.LONG_VALUE,
                f"key {key}: {text[:40]!r} has more digits than ncnn sums in 32 bits",
            )
        meant = _round_to_float32(float(text))
        if meant is None:
            raise self.error(f"key {key}: {text[:40]!r} is outside the range of a 32-bit float")
        return meant

    def compare_counts(self, graph: NcnnGraph, layer_count: int, blob_count: int) -> None:
        if layer_count != len(graph.layers):
            self.note(
                FaultKind.LAYER_COUNT,
                f"{layer_count} layers announced, {len(graph.layers)} found",
            )
        if blob_count < graph.blob_count:
            self.note(
                FaultKind.BLOB_COUNT,
                f"{blob_count} blobs announced, {graph.blob_count} found; ncnn writes past "
                "the end of its table",
            )


# ---- checking ----------------------------------------------------------------------------------


def check(graph: NcnnGraph) -> list[ParamFault]:
    """Every structural fault; empty for a graph that ncnn loads and runs safely.

    Layers whose type is not in `ncnn_layers` are judged by their names, blobs and values only:
    which types a runtime has is the runtime's matter.
    """
    faults = [] if graph.layers else [_other("no layers")]
    if len(graph.layers) > MAX_LAYERS:
        faults.append(_other(f"{len(graph.layers)} layers; at most {MAX_LAYERS} are written"))
    for layer in graph.layers:
        faults += [
            ParamFault(fault.kind, f"{_describe(layer)}: {fault}")
            for fault in _find_layer_faults(layer)
        ]
    return faults + list(_find_blob_faults(graph))


def _other(what: str) -> ParamFault:
    return ParamFault(FaultKind.OTHER, what)


def _describe(layer: Layer) -> str:
    return f"{layer.type} {layer.name}"


def _find_blob_faults(graph: NcnnGraph) -> Iterator[ParamFault]:
    produced: dict[str, Layer] = {}
    every_producer = graph.find_producers()
    for layer in graph.layers:
        for blob in layer.inputs:
            if blob not in produced:
                state = "made only later" if blob in every_producer else "made by no layer"
                yield _other(f"{_describe(layer)}: reads {blob}, which is {state}")
        for blob in layer.outputs:
            if blob in produced:
                maker = _describe(produced[blob])
                yield _other(f"{_describe(layer)}: makes {blob}, as {maker} does")
            produced.setdefault(blob, layer)
    for blob, readers in graph.count_consumers().items():
        if readers > 1:
            yield ParamFault(
                FaultKind.MISSING_SPLIT,
                f"blob {blob} is read {readers} times; ncnn frees it after the first, so a "
                "Split must make the copies",
            )


def _find_layer_faults(layer: Layer) -> Iterator[ParamFault]:
    for name in (layer.type, layer.name, *layer.inputs, *layer.outputs):
        if fault := _find_name_fault(name):
            yield fault
    if layer.type[:1].isdigit() or layer.type[:1] in ("+", "-"):
        yield _other(
            "a type that starts like a number; ncnn takes it for a key of the layer before"
        )
    if max(len(layer.inputs), len(layer.outputs)) > MANY:
        yield _other(f"more than {MANY} inputs or outputs")
    for key, value in layer.params.items():
        yield from _find_value_faults(key, value)
    known = LAYER_TYPES.get(layer.type)
    if known is not None:
        yield from map(_other, _find_type_faults(layer, known))


def _find_name_fault(name: str) -> ParamFault | None:
    if not name or any(character in " \t\r\n\f\v\0" for character in name):
        return _other(f"the name {name[:40]!r} is empty or holds a blank")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return _other(f"the name {name[:40]!r} cannot be written as UTF-8")
    if size > MAX_NAME_BYTES:
        what = f"the name {name[:40]!r}... has {size} bytes; ncnn reads {MAX_NAME_BYTES}"
        return ParamFault(FaultKind.LONG_NAME, what)
    if _KEY_AND_VALUE.match(name):
        return _other(f"the blob name {name[:40]!r} looks like key=value")
    return None


def _describe_mixed_array(key: object) -> str:
    return f"key {key}: integers and floats in one array; ncnn misreads one of them"


def _find_value_faults(key: int, value: ParamValue) -> Iterator[ParamFault]:
    if not 0 <= key < MAX_KEYS:
        yield _other(f"key {key} is outside 0..{MAX_KEYS - 1}")
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_ARRAY_ITEMS:
        yield _other(f"key {key}: {len(items)} items; at most {MAX_ARRAY_ITEMS} are written")
    if isinstance(value, list) and len({isinstance(item, float) for item in value}) > 1:
        yield ParamFault(FaultKind.MIXED_ARRAY, _describe_mixed_array(key))
    for item in items:
        if fault := _find_number_fault(item):
            yield _other(f"key {key}: {fault}")


def _find_number_fault(value: object) -> str | None:
    if isinstance(value, float):
        if math.isfinite(value) and _round_to_float32(value) is not None:
            return None
        return f"{value!r} is not a finite 32-bit float"
    if isinstance(value, int):
        return None if INT32_MIN <= value <= INT32_MAX else f"{value} is no 32-bit integer"
    return f"{value!r} is a {type(value).__name__}; int, float and lists of them are written"


def _find_type_faults(layer: Layer, known: LayerType) -> Iterator[str]:
    for what, blobs, (least, most) in (
        ("inputs", layer.inputs, known.inputs),
        ("outputs", layer.outputs, known.outputs),
    ):
        if not least <= len(blobs) <= most:
            accepted = f"{least}" if least == most else f"{least} to {most}"
            yield f"{len(blobs)} {what}; {layer.type} takes {accepted}"
    value_faults = [fault for param in known.params for fault in _judge_param(layer, param)]
    yield from value_faults
    if not value_faults:
        yield from known.find_rule_faults(layer.params, len(layer.inputs), len(layer.outputs))
        try:
            known.list_weights(layer.params)
        except FormatError as reason:
            yield str(reason)


def _judge_param(layer: Layer, param: ParamId) -> Iterator[str]:
    spec = param.spec
    value = layer.params.get(spec.key)
    name = f"key {spec.key} ({param.name.lower()})"
    if value is None:
        # Only Interp's default is no choice: its type must be given.
        if spec.choices is not None and spec.default not in set(spec.choices):
            yield f"{name} is not given; accepted are {_list_choices(spec.choices)}"
    elif not _has_kind(value, spec.kind):
        yield f"{name} must be {spec.kind.value}; ncnn misreads {value!r}"
    elif spec.choices is not None and value not in set(spec.choices):
        yield f"{name} is {value!r}; accepted are {_list_choices(spec.choices)}"
    elif spec.least is not None and isinstance(value, int) and value < spec.least:
        yield f"{name} is {value!r}; at least {spec.least} is accepted"


def _list_choices(choices: type[enum.IntEnum]) -> str:
    return ", ".join(f"{choice.value} {choice.name.lower()}" for choice in choices)


def _has_kind(value: ParamValue, kind: Kind) -> bool:
    if kind in (Kind.INT, Kind.FLOAT):
        return isinstance(value, int if kind is Kind.INT else float)
    item_type = int if kind is Kind.INTS else float
    return isinstance(value, list) and all(isinstance(item, item_type) for item in value)


# ---- writing -----------------------------------------------------------------------------------


def render(graph: NcnnGraph) -> str:
    """The text of a `.param`; keys in ascending order, columns as ncnn's own tools align them.

    Floats are rounded to float32.

    Raises:
        FormatError: `check` finds a fault; all of them are listed.
    """
    if faults := check(graph):
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise FormatError(f"{len(faults)} fault(s) in the graph:\n{listed}")
    lines = [str(MAGIC), f"{len(graph.layers)} {graph.blob_count}"]
    lines += [_render_layer(layer) for layer in graph.layers]
    return "\n".join(lines) + "\n"


def _render_layer(layer: Layer) -> str:
    head = f"{layer.type:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)}"
    params = [_render_param(key, layer.params[key]) for key in sorted(layer.params)]
    return " ".join([head, *layer.inputs, *layer.outputs, *params])


def _render_param(key: int, value: ParamValue) -> str:
    if not isinstance(value, list):
        return f"{int(key)}={_render_number(value)}"
    items = [str(len(value)), *(_render_number(item) for item in value)]
    return f"{-ARRAY_KEY_OFFSET - key}={','.join(items)}"


def _render_number(value: float) -> str:
    return write_float_for_ncnn(value) if isinstance(value, float) else str(int(value))
