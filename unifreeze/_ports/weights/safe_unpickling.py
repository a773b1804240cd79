"""Reading a pickle of weights without running it: a small machine that can only build data.

It knows the instructions that protocols 2 to 4 write for state dicts; Python's `pickletools`
describes them. Long texts and bytes are skipped and stay in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pickletools import opcodes
from typing import Any, BinaryIO

from unifreeze._ports.weights.allowed_in_pickles import (
    Buildable,
    FileSpan,
    StoredArray,
    admitted,
    put,
)
from unifreeze._ports.weights.contents import broken_file
from unifreeze.errors import WeightFileError

LONG = 1024
"""Longer texts and bytes stay in the file."""
_SIZED = (str, bytes, list, tuple, dict)
MOST_STEPS = 5_000_000
"""A state dict of 100 000 tensors takes some 4 million; each may cost memory beyond the file's."""
Admit = Callable[[str, str, str], Callable[..., Any]]
"""Returns the function that is called instead of a global: of a file, a module and a name."""


def read_pickle(
    file: BinaryIO,
    size: int,
    source: str,
    *,
    admit: Admit = admitted,
    persistent: Callable[[Any], Any] | None = None,
    start: int | None = None,
) -> Any:
    """Read a pickle of weights.

    Args:
        file: The file, at the start of the pickle.
        size: The file's size in bytes.
        source: Name of the file in messages.
        admit: Returns what is called instead of a global.
        persistent: Returns what a persistent identifier stands for; None where there are none.
        start: The offset of a pickle that others follow; None for one that fills the file.

    Returns:
        Plain containers, texts and numbers, with a `StoredArray` for each array. The file stands
        after the pickle.

    Raises:
        WeightFileError: It is cut short, not a pickle, or asks for more than weights need.
    """
    machine = Machine(file, size, source, admit, persistent)
    machine.at = start or 0
    try:
        content = machine.run()
        if start is None and machine.at != size:
            raise ValueError("it does not end where it should")
        return content
    except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
        reason = f"{error} (at byte {machine.at} of {size})"
        raise broken_file(source, "a pickle of weights", reason) from None


class Machine:
    """The stack, the memo and the position in the file."""

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        source: str,
        admit: Admit = admitted,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.file, self.size, self.source, self.at = file, size, source, 0
        self.admit, self.persistent = admit, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.functions: dict[int, Callable[..., Any]] = {}
        self.copied = 0

    def run(self) -> Any:
        """Execute instructions up to STOP."""
        for _ in range(MOST_STEPS):
            code = self.take(1)
            if code == b".":
                break
            step = STEPS.get(code)
            if step is None:
                raise self.unknown(code)
            step(self)
        else:
            raise ValueError(f"it has more than {MOST_STEPS:,} instructions")
        if len(self.stack) != 1 or self.below:
            raise ValueError("it does not end where it should")
        return self.stack.pop()

    def take(self, count: int) -> bytes:
        """Read bytes; never more than the file has."""
        self.claim(count)
        return self.file.read(count)

    def claim(self, count: int) -> None:
        """Move forward in the file."""
        if count < 0 or count > self.size - self.at:
            raise ValueError(f"{count} bytes are announced and {self.size - self.at} are left")
        self.at += count

    def number(self, form: str) -> Any:
        """Read one number by its `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def data(self, form: str, read: Callable[[bytes], Any], *, text: bool = False) -> None:
        """Push a text or bytes; a long one as its position in the file."""
        count = self.number(form)
        if count <= LONG:
            self.stack.append(read(self.take(count)))
            return
        start = self.at
        self.claim(count)
        self.file.seek(self.at)
        self.stack.append(FileSpan(start, count, text))

    def line(self) -> str:
        """Read a line of a GLOBAL instruction."""
        raw = self.file.readline(LONG)
        self.claim(len(raw))
        return raw.rstrip(b"\n").decode("utf-8")

    def push(self, value: Any) -> None:
        """Push a value."""
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Pop what was pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        """Start a run of items."""
        self.below.append(self.stack)
        self.stack = []

    def fold(self, count: int) -> None:
        """Replace the last items by one tuple."""
        if count > len(self.stack):
            raise ValueError("the stack is too short")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def name(self, module: Any, name: Any) -> None:
        """Push the function that replaces a global."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("it names a function by what is not text")
        function = self.admit(self.source, module, name)
        self.functions[id(function)] = function
        self.stack.append(function)

    def name_from_stack(self) -> None:
        """Push the function that replaces a global, whose names are on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        """Call the function that replaces a global."""
        arguments, named = self.stack.pop(), self.stack.pop()
        function = self.functions.get(id(named))
        if function is None or function is not named:
            raise ValueError("it calls what is not a function")
        if not isinstance(arguments, tuple):
            raise ValueError("it calls a function without a tuple of arguments")
        # Through the memo, a small file can have one long text copied very often.
        self.copy(sum(len(part) for part in arguments if isinstance(part, _SIZED)))
        self.stack.append(function(*arguments))

    def copy(self, count: int) -> None:
        """Count what is built of parts of the file: never more than the file has."""
        self.copied += count
        if self.copied > self.size:
            raise ValueError("it builds more than it holds")

    def build(self) -> None:
        """Complete an array or a dtype; attributes of other things are left out or refused."""
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Buildable):
            raise ValueError(f"it sets the attributes of a {type(target).__name__}")
        target.build(state)
        if isinstance(target, StoredArray) and target.entry is not None:
            self.copy(target.entry.nbytes)

    def refer(self) -> None:
        """Replace a persistent identifier by what it stands for."""
        if self.persistent is None:
            raise self.unknown(b"Q")
        self.stack.append(self.persistent(self.stack.pop()))

    def extend(self, items: list[Any]) -> None:
        """Append to the list on the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def fill(self, items: list[Any]) -> None:
        """Put alternating keys and values into the dictionary on the stack."""
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError(f"it sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)

    def pair(self) -> list[Any]:
        """Pop a key and a value."""
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def unknown(self, code: bytes) -> WeightFileError:
        """Return the error for an instruction that weights do not need; INST would run a global."""
        if code == b"i":
            self.admit(self.source, self.line(), self.line())
        known = [row.name for row in opcodes if row.code == code.decode("latin1")]
        what = f"the instruction {known[0]}" if known else f"the byte {code.hex()}"
        return WeightFileError(
            f"{self.source} is not a pickle of weights",
            context=f"{what} at byte {self.at - 1}: weights have no need of it",
        )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8")


def _old_text(raw: bytes) -> str:
    return raw.decode("latin1")


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


STEPS: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),  # a frame is only a hint how far to read ahead
    b"}": lambda m: m.stack.append({}),
    b"]": lambda m: m.stack.append([]),
    b")": lambda m: m.stack.append(()),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"K": lambda m: m.stack.append(m.number("<B")),
    b"M": lambda m: m.stack.append(m.number("<H")),
    b"J": lambda m: m.stack.append(m.number("<i")),
    b"G": lambda m: m.stack.append(m.number(">d")),
    b"\x8a": lambda m: m.data("<B", _integer),
    b"\x8c": lambda m: m.data("<B", _text),
    b"X": lambda m: m.data("<I", _text, text=True),
    b"\x8d": lambda m: m.data("<Q", _text, text=True),
    b"C": lambda m: m.data("<B", bytes),
    b"B": lambda m: m.data("<I", bytes),
    b"\x8e": lambda m: m.data("<Q", bytes),
    b"U": lambda m: m.data("<B", _old_text),
    b"T": lambda m: m.data("<i", _old_text),
    b"q": lambda m: m.memo.update({m.number("<B"): m.stack[-1]}),
    b"r": lambda m: m.memo.update({m.number("<I"): m.stack[-1]}),
    b"\x94": lambda m: m.memo.update({len(m.memo): m.stack[-1]}),
    b"h": lambda m: m.stack.append(m.memo[m.number("<B")]),
    b"j": lambda m: m.stack.append(m.memo[m.number("<I")]),
    b"(": Machine.mark,
    b"t": lambda m: m.push(tuple(m.marked())),  # marked() replaces the stack: look it up after
    b"\x85": lambda m: m.fold(1),
    b"\x86": lambda m: m.fold(2),
    b"\x87": lambda m: m.fold(3),
    b"a": lambda m: m.extend([m.stack.pop()]),
    b"e": lambda m: m.extend(m.marked()),
    b"s": lambda m: m.fill(m.pair()),
    b"u": lambda m: m.fill(m.marked()),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": Machine.name_from_stack,
    b"R": Machine.call,
    b"b": Machine.build,
    b"Q": Machine.refer,
}
