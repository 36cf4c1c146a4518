"""Pickles of arrays and plain Python values, read as data. Nothing that a pickle names is imported or called.

A pickle is a program for a small stack machine. This is an interpreter of the opcodes that data needs: it
makes plain values itself, and arrays of numbers and text from their bytes, once the bytes are there. What a
pickle calls is compared with the few names in `CALLS`, and what each of them makes is written out here; every
other opcode, name or argument is refused. No recursion, and memory in proportion to the file.
"""

import codecs
import math
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError

DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5})")
MOST_AXES = 32
COPIES = 4  # how often, on average, a byte of the file may be copied into values; ordinary pickles need 2
ATOMS = (str, bytes, int, float, complex, bool, type(None))


class Refused(Exception):
    """The pickle wants what data files don't need; the message says what."""


class _Name:
    """A function or class that the pickle names. It is only ever compared."""

    def __init__(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        self.text = text if text.isprintable() else repr(text)  # it goes into messages


class _Dtype:
    """A dtype that the pickle has named; its state may yet give it a byte order."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype


class _Blank:
    """An array that waits for its content. keys: where the memo refers to it."""

    def __init__(self) -> None:
        self.keys: list[int] = []


class _Args(tuple[Any, ...]):
    """A tuple that holds one of the above: good for a call or a state, not a value."""

    __slots__ = ()


_MARK = object()
_NOT_VALUES = (_Name, _Dtype, _Blank, _Args)


def _value(value: Any) -> Any:
    if isinstance(value, _NOT_VALUES) or value is _MARK:
        raise Refused("a function, a dtype or an unfinished array where a value belongs")
    return value


def _key(value: Any) -> Any:
    """A dictionary's key or a set's member: atoms and flat tuples, since hashing deep ones overflows."""
    flat = value if type(value) is tuple else (value,)
    if not all(type(part) in ATOMS for part in flat):
        raise Refused("a key that is neither text nor a number")
    return value


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


class _Machine:
    """Runs one pickle; `run` returns its value."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = COPIES * len(data)  # bytes and members that calls may still copy

    def run(self) -> Any:
        while True:
            code = self.read(1)
            if code == b".":
                return _value(self.pop())
            operation = OPERATIONS.get(code)
            if operation is None:
                raise Refused(f"opcode {code!r}, which data does not need")
            operation(self)

    # the bytes

    def read(self, n: int) -> bytes:
        if n < 0 or n > len(self.data) - self.at:
            raise EOFError("it ends in the middle of a value")
        self.at += n
        return self.data[self.at - n : self.at]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise EOFError("it ends in the middle of a line")
        return self.read(end + 1 - self.at)[:-1]

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.read(struct.calcsize(f"<{kind}")))[0]

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Refused("a value from an empty stack")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        _expect(bool(self.stack) and type(self.stack[-1]) in kinds, "an operation on a value of another kind")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        _expect(at >= 0, "a mark that is not there")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def put(self, key: int) -> None:
        _expect(bool(self.stack) and self.stack[-1] is not _MARK, "a value from an empty stack")
        if isinstance(self.stack[-1], _Blank):
            self.stack[-1].keys.append(key)
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        _expect(key in self.memo, "a value that was never kept")
        self.push(self.memo[key])

    def copied(self, n: int) -> None:
        self.left -= n
        _expect(self.left >= 0, "the same content copied over and over")

    # containers

    def tuple_of(self, values: list[Any]) -> None:
        kind = _Args if any(isinstance(v, _NOT_VALUES) for v in values) else tuple
        _expect(not any(isinstance(v, _Args) for v in values), "a call inside a call")
        self.push(kind(values))

    def last(self, n: int) -> list[Any]:
        values = [self.pop() for _ in range(n)]
        return values[::-1]

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(_value(v) for v in values)

    def set_items(self, values: list[Any]) -> None:
        _expect(len(values) % 2 == 0, "a key without a value")
        into = self.top(dict, OrderedDict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            into[_key(key)] = _value(value)

    def dict_of(self, values: list[Any]) -> None:
        self.push({})
        self.set_items(values)

    def add(self, values: list[Any]) -> None:
        self.top(set).update(_key(v) for v in values)

    # calls

    def reduce(self) -> None:
        args, named = self.pop(), self.pop()
        _expect(isinstance(named, _Name), "a call of a value")
        _expect(isinstance(args, tuple), "a call without arguments")
        call = CALLS.get(named.text)
        if call is None:
            raise Refused(f"it wants to use {named.text}")
        self.push(call(self, *args))

    def build(self) -> None:
        state = self.pop()
        what = self.top(_Blank, _Dtype)
        _expect(isinstance(state, tuple), "a state that is no tuple")
        if isinstance(what, _Dtype):
            _order(what, *state)
            return
        array = self.array(*state[-4:])
        self.stack[-1] = array
        for key in what.keys:
            if self.memo[key] is what:
                self.memo[key] = array

    def array(self, shape: Any, kind: Any, fortran: Any, content: Any) -> npt.NDArray[Any]:
        """An array of a shape from its bytes, copied; refused unless the bytes are just as many."""
        _expect(isinstance(kind, _Dtype), "an array without a dtype")
        content = _content(content)
        _expect(type(shape) is tuple and len(shape) <= MOST_AXES, "an array without a shape")
        _expect(all(type(n) is int and n >= 0 for n in shape), "an array of a negative shape")
        size = kind.dtype.itemsize * math.prod(shape)
        _expect(size == len(content), f"an array of {size} bytes from {len(content)}")
        self.copied(size)
        order = "F" if fortran is True or fortran == "F" else "C"
        return np.frombuffer(content, kind.dtype).reshape(shape, order=order).copy(order="K")  # type: ignore[call-overload]


def _content(content: Any) -> bytes:
    """The bytes of an array; those of Python 2 come as text."""
    if isinstance(content, str):
        return content.encode("latin1")
    _expect(isinstance(content, bytes | bytearray), "an array whose content is no bytes")
    return bytes(content)


def _dtype(machine: _Machine, name: Any, *flags: Any) -> _Dtype:
    """numpy.dtype("f8", False, True): numbers and fixed-length text; no objects, no structures."""
    text = name.decode("latin1") if isinstance(name, bytes) else name
    ok = isinstance(text, str) and DTYPE.fullmatch(text) is not None
    _expect(ok and all(type(f) in (bool, int) for f in flags), f"an array of {name!r:.80}")
    return _Dtype(np.dtype(text))


def _order(
    kind: _Dtype,
    version: Any,
    order: Any,
    subarray: Any = None,
    names: Any = None,
    fields: Any = None,
    *sizes: Any,
) -> None:
    """A dtype's state: its byte order is used; structures and subarrays are refused."""
    order = order.decode("latin1") if isinstance(order, bytes) else order
    _expect(isinstance(order, str) and order in ("<", ">", "|", "="), f"byte order {order!r:.20}")
    _expect((subarray, names, fields) == (None, None, None), "an array of structures")
    kind.dtype = kind.dtype.newbyteorder(order)


def _reconstruct(machine: _Machine, cls: Any, shape: Any, kind: Any) -> _Blank:
    """numpy's empty array, to be filled by its state."""
    _expect(isinstance(cls, _Name) and cls.text == "numpy.ndarray", "an array of another class")
    return _Blank()


def _scalar(machine: _Machine, kind: Any, content: Any) -> Any:
    return machine.array((1,), kind, False, content)[0]


def _frombuffer(machine: _Machine, content: Any, kind: Any, shape: Any, order: Any) -> Any:
    """How protocol 5 writes an array."""
    return machine.array(shape, kind, order, content)


def _encode(machine: _Machine, text: Any = "", encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    _expect(isinstance(text, str | bytes) and encoding in ("latin1", "latin-1"), "bytes in another encoding")
    machine.copied(len(text))
    return text if isinstance(text, bytes) else text.encode("latin1")


def _bytearray(machine: _Machine, *args: Any) -> bytearray:
    return bytearray(_encode(machine, *args))


def _complex(machine: _Machine, real: Any, imaginary: Any) -> complex:
    _expect(type(real) is float and type(imaginary) is float, "a complex number of other values")
    return complex(real, imaginary)


def _members(machine: _Machine, values: Any) -> list[Any]:
    _expect(type(values) is list, "a set of something else")
    machine.copied(len(values))
    return [_key(v) for v in values]


def _ordered(machine: _Machine, pairs: Any = ()) -> "OrderedDict[Any, Any]":
    """How Python 2 writes it: with all pairs as its argument; Python 3 adds them afterwards."""
    _expect(type(pairs) in (list, tuple), "an ordered dictionary of something else")
    _expect(all(type(p) in (list, tuple) and len(p) == 2 for p in pairs), "an ordered dictionary of no pairs")
    machine.copied(len(pairs))
    return OrderedDict((_key(k), v) for k, v in pairs)


_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _frombuffer,
}
_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": lambda machine, values: set(_members(machine, values)),
    "frozenset": lambda machine, values: frozenset(_members(machine, values)),
    "bytes": _encode,
    "bytearray": _bytearray,
    "complex": _complex,
}
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    # numpy 1 called this package core, numpy 2 calls it _core
    **{f"numpy.{core}.{name}": make for core in ("core", "_core") for name, make in _NUMPY.items()},
    **{
        f"{module}.{name}": make for module in ("builtins", "__builtin__") for name, make in _BUILTINS.items()
    },
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered,
}


def _integer(line: bytes) -> int | bool:
    return {b"01": True, b"00": False}[line] if line in (b"01", b"00") else int(line)


def _quoted(line: bytes) -> str:
    """Python 2's text in protocol 0."""
    quoted = len(line) >= 2 and line[:1] in (b"'", b'"') and line[-1:] == line[:1]
    _expect(quoted, "text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _named(machine: _Machine) -> _Name:
    module, name = machine.last(2)
    _expect(type(module) is str and type(name) is str, "a name that is no text")
    return _Name(module, name)


def _proto(machine: _Machine) -> None:
    version = machine.number("B")
    _expect(version <= 5, f"protocol {version}")


def _text(m: _Machine, size: str) -> str:
    return m.read(m.number(size)).decode("utf-8", "surrogatepass")


# https://docs.python.org/3/library/pickletools.html says what each does
OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _proto,
    b"\x95": lambda m: m.number("Q"),  # a frame's length: only a hint
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.marked(),
    b"2": lambda m: m.push(_value(m.stack[-1] if m.stack else _MARK)),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_integer(m.line())),
    b"L": lambda m: m.push(int(m.line().removesuffix(b"L"))),
    b"F": lambda m: m.push(float(m.line())),
    b"J": lambda m: m.push(m.number("i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.read(m.number("B")), "little", signed=True)),
    b"\x8b": lambda m: m.push(int.from_bytes(m.read(m.number("i")), "little", signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.read(8))[0]),
    b"S": lambda m: m.push(_quoted(m.line())),
    b"T": lambda m: m.push(m.read(m.number("i")).decode("latin1")),
    b"U": lambda m: m.push(m.read(m.number("B")).decode("latin1")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(_text(m, "I")),
    b"\x8c": lambda m: m.push(_text(m, "B")),
    b"\x8d": lambda m: m.push(_text(m, "Q")),
    b"B": lambda m: m.push(m.read(m.number("I"))),
    b"C": lambda m: m.push(m.read(m.number("B"))),
    b"\x8e": lambda m: m.push(m.read(m.number("Q"))),
    b"\x96": lambda m: m.push(bytearray(m.read(m.number("Q")))),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push(set()),
    b"l": lambda m: m.push([_value(v) for v in m.marked()]),
    b"d": lambda m: m.dict_of(m.marked()),
    b"t": lambda m: m.tuple_of(m.marked()),
    b"\x85": lambda m: m.tuple_of(m.last(1)),
    b"\x86": lambda m: m.tuple_of(m.last(2)),
    b"\x87": lambda m: m.tuple_of(m.last(3)),
    b"\x91": lambda m: m.push(frozenset(_key(v) for v in m.marked())),
    b"a": lambda m: m.extend(m.last(1)),
    b"e": lambda m: m.extend(m.marked()),
    b"s": lambda m: m.set_items(m.last(2)),
    b"u": lambda m: m.set_items(m.marked()),
    b"\x90": lambda m: m.add(m.marked()),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("B")),
    b"r": lambda m: m.put(m.number("I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(int(m.line())),
    b"h": lambda m: m.get(m.number("B")),
    b"j": lambda m: m.get(m.number("I")),
    b"c": lambda m: m.push(_Name(m.line().decode("latin1"), m.line().decode("latin1"))),
    b"\x93": lambda m: m.push(_named(m)),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
}


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays and plain Python values. Raises InputError for anything else."""
    try:
        return _Machine(path.read_bytes()).run()
    except Refused as error:
        raise InputError(
            f"{path}: refused to open this pickle ({error}): a data file holds arrays and numbers only; "
            "download it again from its authors"
        ) from error
    except (EOFError, ValueError, TypeError, OverflowError, struct.error) as error:  # of broken bytes
        raise InputError(f"{path}: not a readable pickle ({error}): download it again") from error
