"""Break files in ways that mean something to whoever reads them, and in ways that mean nothing.

Every function takes a source of randomness and a whole file, and gives another; the same randomness
gives the same file.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

Mutation = Callable[[Random, bytes], bytes]

NUMBERS = (
    *(0, 1, -1, 2, 3, 4, 7, 127, 128, 255, 256, 4096, 65535, 65536, -233, -23300, -23330, 10**6),
    *(2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64),
)
WORDS = (
    *("", ".", "-", "nan", "-nan", "inf", "1e", "1e999", "-1e-999", "0x10", "1_0", "+5", "1."),
    *("\u0663", "\u00b2", "9" * 40, "9" * 5000, "0." + "1" * 400, "1e" + "9" * 5000, "x" * 300),
    *("3e38", "-3e38", "1e-45", "3.4e38"),
    *("x" * 70_000, "\0", "\ufeff", "a=b", "0=1", "-23300=2,1", "-23300=4096,1", "0=1,2,", "in0"),
    *("out0", "../../etc/passwd", "/etc/passwd", "%s%n", "\u202e", "\r"),
)
# What a pickle says to run a command, to evaluate an expression, and to walk to a function.
OPCODES = (
    b"cposix\nsystem\n(X\x0b\x00\x00\x00touch ran-itR0",
    b"cbuiltins\neval\n(X\x17\x00\x00\x00open('ran-it','w').close()R0",
    b"cbuiltins\ngetattr\n(cos\n__dict__\nX\x06\x00\x00\x00systemR0",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n)R",
    b"cbuiltins\nbytearray\n(\x8a\x05\x00\x00\x00\x00\x01tR",
    *(b"(" * 20_000, b"]" * 20_000 + b"a" * 19_999, b"}" * 100, b"\x8a\xff" + b"\x7f" * 255),
    *(b"Q", b"\x94" * 50, b"\x85" * 5000, b"h\xff", b"j\xff\xff\xff\xff", b"r\xff\xff\xff\x7f"),
    *(b".", b"0", b"\x80\x05", b"N", b"M\x00\x40", b"J\xff\xff\xff\x7f", b"\x8a\x06\0\0\0\0\0\x01"),
)
# What torch may be told that numbers are, as a dtype or as the class of a storage.
DTYPES = (
    *(
        b"float4_e2m1fn_x2",
        b"float8_e8m0fnu",
        b"float8_e4m3fn",
        b"bfloat16",
        b"complex32",
        b"int64",
    ),
    *(b"quint8", b"bits8", b"bool", b"HalfStorage", b"DoubleStorage", b"QInt8Storage"),
    *(b"ComplexFloatStorage", b"BoolStorage", b"UntypedStorage"),
)
SAFETENSORS_DTYPES = ("F4", "F6_E2M3", "F8_E8M0", "F8_E4M3", "F16", "F64", "C64", "BOOL", "U16")
# UTF-8 of a half of a character, which Python reads from pickles and cannot write again.
SURROGATE = "\udc80".encode(errors="surrogatepass")
EDITS = (1, 1, 1, 2, 4)
BIGGEST_CHUNK = 64


def mutate(random: Random, data: bytes, mutations: Sequence[Mutation]) -> bytes:
    """Break a file in one to four places."""
    for _ in range(random.choice(EDITS)):
        data = random.choice(mutations)(random, data)
    return data


# ---- bytes -------------------------------------------------------------------------------------


def flip_bit(random: Random, data: bytes) -> bytes:
    """Flip one bit."""
    return _write(data, at := _place(random, data), bytes([data[at] ^ 1 << random.randrange(8)]))


def set_byte(random: Random, data: bytes) -> bytes:
    """Set one byte to a value at the end of a range."""
    return _write(data, _place(random, data), bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))]))


def set_number(random: Random, data: bytes) -> bytes:
    """Write a number at the end of a range over some bytes, in either order."""
    size = random.choice((2, 4, 8))
    number = random.choice(NUMBERS) % 256**size
    written = number.to_bytes(size, random.choice(("little", "big")))
    return _write(data, _place(random, data), written)


def cut_end(random: Random, data: bytes) -> bytes:
    """Leave the end out."""
    return data[: _place(random, data)]


def cut_chunk(random: Random, data: bytes) -> bytes:
    """Leave some bytes out."""
    at = _place(random, data)
    return data[:at] + data[at + random.randint(1, BIGGEST_CHUNK) :]


def double_chunk(random: Random, data: bytes) -> bytes:
    """Repeat some bytes, once or often."""
    at, size = _place(random, data), random.randint(1, BIGGEST_CHUNK)
    return data[:at] + data[at : at + size] * random.choice((2, 3, 100)) + data[at + size :]


def add_noise(random: Random, data: bytes) -> bytes:
    """Insert random bytes."""
    at = _place(random, data)
    return data[:at] + random.randbytes(random.randint(1, BIGGEST_CHUNK)) + data[at:]


def _place(random: Random, data: bytes) -> int:
    """Anywhere; near the start more often, where the counts stand."""
    if not data:
        return 0
    return random.randrange(random.choice((len(data), min(len(data), BIGGEST_CHUNK))))


def _write(data: bytes, at: int, written: bytes) -> bytes:
    return data[:at] + written + data[at + len(written) :]


def _not_empty(mutation: Mutation) -> Mutation:
    return lambda random, data: mutation(random, data) if data else data


BYTES: tuple[Mutation, ...] = (
    *map(_not_empty, (flip_bit, set_byte)),
    *(set_number, cut_end, cut_chunk, double_chunk, add_noise),
)


# ---- text --------------------------------------------------------------------------------------


def change_word(random: Random, data: bytes) -> bytes:
    """Put something else in the place of a word, or of one side of `key=value`."""
    lines = data.split(b"\n")
    words = lines[row := random.randrange(len(lines))].split(b" ")
    at = random.randrange(len(words))
    key, equals, value = words[at].partition(b"=")
    new = random.choice((str(random.choice(NUMBERS)), random.choice(WORDS))).encode()
    words[at] = random.choice((new, key + equals + new, new + equals + value))
    lines[row] = b" ".join(words)
    return b"\n".join(lines)


def lend_word(random: Random, data: bytes) -> bytes:
    """Put another word of the file in the place of a word: cycles, doubles, other layers."""
    lines = data.split(b"\n")
    lent = random.choice(random.choice(lines).split(b" "))
    words = lines[row := random.randrange(len(lines))].split(b" ")
    words[random.randrange(len(words))] = lent
    lines[row] = b" ".join(words)
    return b"\n".join(lines)


def drop_line(random: Random, data: bytes) -> bytes:
    """Leave a line out."""
    lines = data.split(b"\n")
    del lines[random.randrange(len(lines))]
    return b"\n".join(lines)


def double_line(random: Random, data: bytes) -> bytes:
    """Repeat a line, once or often."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    lines[at:at] = [lines[at]] * random.choice((1, 2, 500))
    return b"\n".join(lines)


def swap_lines(random: Random, data: bytes) -> bytes:
    """Swap two lines."""
    lines = data.split(b"\n")
    first, second = (random.randrange(len(lines)) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


TEXT: tuple[Mutation, ...] = (
    *(change_word, change_word, lend_word, lend_word, drop_line, double_line, swap_lines),
    *BYTES,
)


# ---- JSON --------------------------------------------------------------------------------------


def change_json(random: Random, data: bytes) -> bytes:
    """Put a value of another kind somewhere into a JSON document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(_change_value(random, document)).encode()


def _change_value(random: Random, value: Any) -> Any:
    if value and isinstance(value, (dict, list)) and random.random() < 0.8:
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = _change_value(random, value[key])
        return value
    nested: Any = []
    for _ in range(random.choice((1, 200))):
        nested = [nested]
    odd: tuple[Any, ...] = (
        None,
        True,
        "",
        [],
        {},
        nested,
        {"a": value},
        [value],
        [[value]],
        ["a"],
        [0],
        [1, 10**400],
        "\udc80",
        -1,
        0,
        0.5,
        1e300,
        float("nan"),
    )
    return random.choice((*odd, random.choice(NUMBERS), random.choice(WORDS)))


JSON: tuple[Mutation, ...] = (change_json, change_json, change_json, *BYTES)


# ---- protobuf ----------------------------------------------------------------------------------


def change_message(random: Random, data: bytes) -> bytes:
    """Change one field somewhere in an ONNX model, keeping it a message."""
    model = _parse_model(data)
    if model is None:
        return data
    _change_field(random, _choose_message(random, model))
    return _close_model(model, data)


def break_model(random: Random, data: bytes) -> bytes:
    """Do to an ONNX model what breaks readers: see `BREAKS`."""
    model = _parse_model(data)
    if model is None or not model.graph.node:
        return data
    random.choice(BREAKS)(random, model)
    return _close_model(model, data)


def _parse_model(data: bytes) -> onnx.ModelProto | None:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    # protobuf's exceptions differ from one implementation of it to the next.
    except Exception:
        return None
    return model


def _close_model(model: onnx.ModelProto, data: bytes) -> bytes:
    try:
        closed: bytes = model.SerializeToString()
    except ValueError:  # a string that is no UTF-8
        return data
    return closed


def _choose_message(random: Random, message: Any) -> Any:
    """A message inside of a message, at any depth."""
    while True:
        inner = [
            one
            for field, value in message.ListFields()
            if field.type == FieldDescriptor.TYPE_MESSAGE
            for one in (value if _is_repeated(field) else [value])
        ]
        if not inner or random.random() < 0.15:
            return message
        message = random.choice(inner)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _change_field(random: Random, message: Any) -> None:
    present = [field for field, _ in message.ListFields()]
    field = random.choice(present or message.DESCRIPTOR.fields)
    if random.random() < 0.2:
        field = random.choice(message.DESCRIPTOR.fields)
    if random.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _change_messages(random, message, field)
    elif _is_repeated(field):
        values = list(getattr(message, field.name))
        values[random.randint(0, len(values)) :] = [_draw_value(random, field)]
        message.ClearField(field.name)
        getattr(message, field.name).extend(values)
    else:
        setattr(message, field.name, _draw_value(random, field))


def _change_messages(random: Random, message: Any, field: Any) -> None:
    if not _is_repeated(field):
        getattr(message, field.name).SetInParent()
        return
    values = list(getattr(message, field.name))
    if not values:
        getattr(message, field.name).add()
        return
    first, second = random.randrange(len(values)), random.randrange(len(values))
    values[first] = values[second]
    values += [values[first]] * random.choice((0, 1, 50))
    del values[: random.choice((0, 0, 1))]
    copies = [type(one).FromString(one.SerializeToString()) for one in values]
    message.ClearField(field.name)
    getattr(message, field.name).extend(copies)


def _draw_value(random: Random, field: Any) -> Any:
    kinds: dict[int, Callable[[], Any]] = {
        FieldDescriptor.TYPE_INT32: lambda: _wrap(random.choice(NUMBERS), 32),
        FieldDescriptor.TYPE_INT64: lambda: _wrap(random.choice(NUMBERS), 64),
        FieldDescriptor.TYPE_UINT64: lambda: random.choice(NUMBERS) % 2**64,
        FieldDescriptor.TYPE_FLOAT: lambda: random.choice((0.0, -1.0, 1e-40, 3e38, float("nan"))),
        FieldDescriptor.TYPE_DOUBLE: lambda: random.choice((0.0, -1.0, 1e308, float("inf"))),
        FieldDescriptor.TYPE_STRING: lambda: random.choice(WORDS),
        FieldDescriptor.TYPE_BYTES: lambda: random.randbytes(random.choice((0, 1, 40, 4000))),
        FieldDescriptor.TYPE_ENUM: lambda: random.choice(field.enum_type.values).number,
    }
    return kinds[field.type]()


def _wrap(number: int, bits: int) -> int:
    """As a signed number of so many bits."""
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half


def _move_outside(random: Random, model: onnx.ModelProto) -> None:
    """Let a tensor lie in a file, inside or outside of the model's folder."""
    if not model.graph.initializer:
        return
    tensor = random.choice(model.graph.initializer)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, values in (
        ("location", ("beside.bin", "../beside.bin", "/etc/passwd", "link.bin", "", "a/../b")),
        ("offset", ("0", "-1", str(2**63), "x")),
        ("length", ("0", "16", str(2**40), "-5")),
    ):
        tensor.external_data.add(key=key, value=random.choice(values))


def _claim_size(random: Random, model: onnx.ModelProto) -> None:
    """Let a tensor claim a shape that its bytes cannot fill."""
    if model.graph.initializer:
        tensor = random.choice(model.graph.initializer)
        tensor.dims.append(random.choice((0, -1, 2**20, 2**40, 2**62)))


def _close_circle(random: Random, model: onnx.ModelProto) -> None:
    """Let a node read what is made of it."""
    late = random.choice(model.graph.node)
    early = model.graph.node[0]
    if late.output and early.input:
        early.input[random.randrange(len(early.input))] = late.output[0]


def _double_name(random: Random, model: onnx.ModelProto) -> None:
    """Let two nodes have one name, or make one value."""
    first, second = random.choice(model.graph.node), random.choice(model.graph.node)
    first.name = second.name
    if random.random() < 0.5 and first.output and second.output:
        first.output[0] = second.output[0]


def _nest_graphs(random: Random, model: onnx.ModelProto) -> None:
    """Put graphs into graphs."""
    graph = model.graph
    for _ in range(random.choice((1, 20, 90))):
        node = graph.node.add(op_type=random.choice(("If", "Loop", "Scan")), output=["deep"])
        attribute = node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g


def _change_metadata(random: Random, model: onnx.ModelProto) -> None:
    """Let the model say something else of itself."""
    if model.metadata_props:
        entry = random.choice(model.metadata_props)
        try:
            document = json.loads(entry.value)
        except (ValueError, RecursionError):
            document = entry.value
        changed = json.dumps(_change_value(random, document))
        entry.value = random.choice((changed, random.choice(WORDS)))


def _change_constant(random: Random, model: onnx.ModelProto) -> None:
    """Change what a small constant says: axes, bounds, scales."""
    small = [one for one in model.graph.initializer if 0 < len(one.raw_data) <= 64]
    if small:
        tensor = random.choice(small)
        tensor.raw_data = mutate(random, tensor.raw_data, (set_number, set_byte))


def _change_operator(random: Random, model: onnx.ModelProto) -> None:
    """Let a node be another one of the graph's, or one that loops or allocates."""
    node = random.choice(model.graph.node)
    others = [one.op_type for one in model.graph.node]
    strange = ("ConstantOfShape", "Range", "Tile", "Expand", "Loop", "NonZero", "Pow", "Softmax")
    node.op_type = random.choice((random.choice(others), random.choice(strange)))


BREAKS: tuple[Callable[[Random, onnx.ModelProto], None], ...] = (
    _move_outside,
    _claim_size,
    _close_circle,
    _double_name,
    _nest_graphs,
    _change_metadata,
    _change_constant,
    _change_operator,
)
ONNX: tuple[Mutation, ...] = (
    *(change_message, change_message, change_message, break_model, break_model, break_model),
    *BYTES,
)


# ---- checkpoints -------------------------------------------------------------------------------


def change_pickle(random: Random, data: bytes) -> bytes:
    """Change the pickle in torch's archive, or the whole of a file that is no archive."""
    entries = _open_archive(data)
    if entries is None:
        return _change_steps(random, data)
    name = next((one for one in entries if one.endswith("data.pkl")), None)
    if name is None:
        return data
    changed = _change_steps(random, entries[name])
    return _close_archive({**entries, name: changed}, zipfile.ZIP_STORED)


def change_archive(random: Random, data: bytes) -> bytes:
    """Change what torch's archive holds: other names, other sizes, nothing, a bomb."""
    entries = _open_archive(data)
    if not entries:
        return data
    name = random.choice(list(entries))
    content = entries.pop(name)
    outside = (
        name.upper(),
        name.title(),
        "../../outside",
        "/tmp/outside",
        name.rsplit("/", 1)[-1],
        "x" * 60_000,
        name * 2,
    )
    replacement = random.choice(
        (
            {},
            {random.choice(outside): content},
            {name: mutate(random, content, BYTES)},
            {name: content * random.choice((0, 2, 50))},
            {name: bytes(20_000_000)},
        )
    )
    packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if name in replacement and len(replacement[name]) > len(data) * 100:
        packing = zipfile.ZIP_DEFLATED
    return _close_archive({**entries, **replacement}, packing)


def change_header(random: Random, data: bytes) -> bytes:
    """Change the JSON at the start of a safetensors file, and now and then its length."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data):
        return data
    header = _change_dtype_word(random, change_json(random, data[8 : 8 + size]))
    claimed = len(header) if random.random() < 0.8 else random.choice(NUMBERS) % 2**64
    return claimed.to_bytes(8, "little") + header + data[8 + size :]


def _change_dtype_word(random: Random, header: bytes) -> bytes:
    """Let the first tensors be of another type, now and then."""
    if random.random() < 0.8:
        return header
    return header.replace(b'"F32"', f'"{random.choice(SAFETENSORS_DTYPES)}"'.encode(), 1)


def _change_steps(random: Random, data: bytes) -> bytes:
    """Change what numbers are, change a name, or do something else."""
    change = random.choice((_change_dtype, _change_key, _change_opcodes, _change_opcodes))
    return change(random, data)


def _change_dtype(random: Random, data: bytes) -> bytes:
    """Let numbers be of another type, all of them or the first."""
    named = b"ctorch\n" + random.choice(DTYPES) + b"\n"
    count = random.choice((0, 1))
    return re.sub(rb"ctorch\n(float8_e5m2|\w+Storage)\n", lambda _: named, data, count=count)


def _change_key(random: Random, data: bytes) -> bytes:
    """Put half a character into a name, of which the length stays."""
    word = random.choice((b"weight", b"bias", b"module", b"block0"))
    return data.replace(word, SURROGATE + word[len(SURROGATE) :], random.choice((-1, 1)))


def _change_opcodes(random: Random, data: bytes) -> bytes:
    """Insert opcodes, or change bytes."""
    if random.random() < 0.5:
        return mutate(random, data, BYTES)
    at = _place(random, data)
    return data[:at] + random.choice(OPCODES) + data[at + random.choice((0, 0, 1, 2)) :]


def _open_archive(data: bytes) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(one.file_size for one in archive.infolist()) > 10 * len(data):
                return None
            return {one.filename: archive.read(one) for one in archive.infolist()}
    # zipfile raises many kinds for broken archives.
    except Exception:
        return None


def _close_archive(entries: Mapping[str, bytes], packing: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, content in entries.items():
            # Without a date of its own, so that the same entries give the same bytes.
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return file.getvalue()


CHECKPOINT: tuple[Mutation, ...] = (
    *(change_pickle, change_pickle, change_pickle, change_archive, change_header, change_header),
    *BYTES,
)
