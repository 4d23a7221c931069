"""Read what a pickle would do, without doing it."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from napari_volseg.errors import DataError

__all__ = ["check_pickle"]

_HARMLESS = frozenset({
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", "torch Size",
    *(f"torch {kind}Storage" for kind in (
        "Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long",
        "Bool",
    )),
})  # fmt: skip
"""Everything that tensors and plain values in a checkpoint are made of."""

_NEVER_WRITTEN = frozenset({
    "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4",
    "PERSID", "FRAME", "NEXT_BUFFER", "READONLY_BUFFER",
})  # fmt: skip
"""What torch does not use for tensors and plain values."""

_MAX_STEPS = 1_000_000
_MAX_ARRAYS = 20_000
_MAX_DEPTH = 60
_MAX_VALUES = 2_000_000

_ADDS_TO_BOTTOM = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"})


@dataclass(slots=True)
class _Item:
    """How deep a value on the pickle's stack nests, and how many values it holds."""

    depth: int = 0
    n_values: int = 1


def check_pickle(data: bytes, name: str) -> None:
    """Refuse a pickle that holds more than tensors and plain values.

    Nothing is built, imported or called: the opcodes are only read.

    Parameters
    ----------
    data
        A pickle as ``torch.save`` writes it.
    name
        The file, for messages.

    Raises
    ------
    DataError
        If it would call or import something else, holds too many arrays, nests
        too deeply, or is no pickle.
    """
    sizes = _Sizes(name)
    n_arrays = 0
    for step, (code, argument) in enumerate(_opcodes(data, name)):
        if step > _MAX_STEPS:
            raise DataError(f"{name} holds far too many values for a checkpoint")
        if code.name == "GLOBAL" and argument not in _HARMLESS:
            raise DataError(_foreign(argument, name))
        if code.name in _NEVER_WRITTEN:
            raise DataError(
                f"{name} was not written by a training of volseg: it would run code "
                f"on loading ({code.name}); choose a checkpoint of a run"
            )
        n_arrays += code.name == "BINPERSID"
        if n_arrays > _MAX_ARRAYS:
            raise DataError(
                f"{name} lists more than {_MAX_ARRAYS} arrays: it is no checkpoint of "
                "a volseg run"
            )
        sizes.follow(code, argument)


def _opcodes(data: bytes, name: str) -> Iterator[tuple[Any, Any]]:
    try:
        for code, argument, _ in pickletools.genops(data):
            yield code, argument
    except (ValueError, OverflowError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is damaged: its list of arrays {error}") from None


def _foreign(named: str, name: str) -> str:
    dotted = named.replace(" ", ".")
    if dotted.startswith(("torch.nn.", "torch.jit.", "torch.fx.")):
        return (
            f"{name} holds a whole network ({dotted}), and loading one can run any "
            "code: a volseg model needs a state dict, so choose a model.safetensors"
        )
    return (
        f"{name} needs '{dotted}' on loading, which could run any code: choose the "
        "model.safetensors or a checkpoint of a volseg run"
    )


class _Sizes:
    """Follows a pickle's stack, keeping only how large and deep its values are.

    A few bytes can stand for billions of values, by naming one list many times.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stack: list[_Item | None] = []
        self._memo: dict[int, _Item] = {}

    def follow(self, code: Any, argument: Any) -> None:
        """Take one opcode into account."""
        match code.name:
            case "MARK":
                self._stack.append(None)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[int(argument)] = self._top()
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            case "GET" | "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo.get(int(argument), _Item()))
            case "PROTO" | "STOP":
                return
            case "POP" | "POP_MARK" | "DUP":
                raise DataError(f"{self._name} was not written by PyTorch")
            case _:
                self._push(code)

    def _push(self, code: Any) -> None:
        taken = self._take(code)
        if not code.stack_after:
            return
        if code.name in _ADDS_TO_BOTTOM and taken:
            item, parts = taken[0], taken[1:]
        else:
            item, parts = _Item(), taken
            self._check(item)
        if parts:
            item.depth = max(item.depth, 1 + max(part.depth for part in parts))
            item.n_values += sum(part.n_values for part in parts)
            self._check(item)
        self._stack.append(item)

    def _take(self, code: Any) -> list[_Item]:
        """Take from the stack what an opcode uses, lowest first."""
        before = [kind.name for kind in code.stack_before]
        taken: list[_Item] = []
        if "mark" in before:
            while self._stack and (item := self._stack.pop()) is not None:
                taken.append(item)
            rest = before.index("mark")
        else:
            rest = len(before)
        taken += [self._pop() for _ in range(rest)]
        return taken[::-1]

    def _pop(self) -> _Item:
        item = self._stack.pop() if self._stack else None
        if item is None:
            raise DataError(f"{self._name} is damaged: its list of arrays is broken")
        return item

    def _top(self) -> _Item:
        if not self._stack or self._stack[-1] is None:
            raise DataError(f"{self._name} is damaged: its list of arrays is broken")
        return self._stack[-1]

    def _check(self, item: _Item) -> None:
        if item.depth > _MAX_DEPTH:
            raise DataError(
                f"{self._name} nests its values more than {_MAX_DEPTH} deep: it is no "
                "checkpoint of a volseg run"
            )
        if item.n_values > _MAX_VALUES:
            raise DataError(f"{self._name} holds far too many values for a checkpoint")
