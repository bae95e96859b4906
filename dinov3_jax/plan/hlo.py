"""Reading the compiler's optimised program (HLO text): loops, collectives, estimated cycles.

What stands in a loop counts once for each turn; the compiler's own summaries count it once in all.
Every branch of a conditional counts.
"""

import collections
import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2,
          "s16": 2, "u16": 2}  # fmt: skip
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLS = re.compile(r"(calls|body|called_computations|to_apply)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=([^,\s]+)")
_COLLECTIVE = re.compile(rf"%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\((.*?)\)")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_NO_ESTIMATE = 2**62  # the compiler writes about 2^63 where it has none


class Collective(NamedTuple):
    kind: str  # of KINDS
    times: int  # in one step
    bytes: int  # that a chip receives each time
    size: int  # bytes of the whole array: the larger of operand and result
    asynchronous: bool  # it runs beside something else
    name: str  # of the operation in our code


def collectives(program: str) -> list[Collective]:
    """Every collective of a program; ``ValueError`` for one in a loop whose turns are not known.

    Received bytes: result less operand of an all-gather, operand less result of a reduce-scatter,
    twice the operand of an all-reduce (which is both), the operand of the others. What is gathered
    axis by axis therefore counts as much as what is gathered at once.
    """
    computations, times, inline, fused = _read(program)
    found, seen = [], set()
    for computation, lines in computations.items():
        for line in lines if times[computation] else ():
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            _check_turns(times[computation], computation, line)
            result, kind, start, operands = match.groups()
            name = re.search(r'op_name="([^"]*)"', line)
            name = name[1] if name else ""
            asynchronous = bool(start) or computation not in inline
            channel = re.search(r"channel_id=(\d+)", line)
            # The fusions that start, advance and end an asynchronous one each repeat it.
            key = (kind, channel and channel[1], _dims(result), name)
            if computation in fused and channel is not None:
                if key in seen:
                    continue
                seen.add(key)
            shapes = {n: _nbytes(t) for n, t in _parameters(lines)}
            operand = sum(shapes.get(o.strip().lstrip("%"), 0) for o in operands.split(","))
            out = _nbytes(result)
            if start and kind != "all-reduce":  # (operand, result, ...)
                out -= operand
            received = {
                "all-gather": out - operand,
                "reduce-scatter": operand - out,
                "all-reduce": 2 * out,
            }.get(kind, out)
            found.append(
                Collective(
                    kind, times[computation], received, max(operand, out), asynchronous, name
                )
            )
    return found


def cycles(program: str) -> int | None:
    """The compiler's estimate of cycles of one step; None for a program without machine code.

    Without collectives and hand-written kernels, and with whatever can overlap overlapped.
    ``ValueError`` as ``collectives``.
    """
    computations, times, _, _ = _read(program)
    total = 0
    for computation, lines in computations.items():
        for line in lines if times[computation] else ():
            match = re.search(r'"estimated_cycles":"(\d+)"', line)
            if match and int(match[1]) < _NO_ESTIMATE:
                _check_turns(times[computation], computation, line)
                total += times[computation] * int(match[1])
    return total or None


def is_whole(program: str) -> bool:
    """Whether the text is a module to its end: ENTRY comes last, its brace at the margin."""
    return "\nENTRY " in program and program.rstrip().endswith("\n}")


def packed_bytes(report: str) -> int | None:
    """Bytes of the first memory space (HBM) in the compiler's report of its buffers.

    Before the last packing: 10 to 30 % more than the peak. None for a report that is empty or not
    written so far.
    """
    match = re.search(r"color=0\)\s*Total bytes: (\d+) \(", report)
    return int(match[1]) if match else None


def _read(program):
    """({computation: lines}, how often each runs in a step, entry and loops, bodies of fusions).

    NaN times: in a loop whose turns are not known.
    """
    computations, entry, current = {}, None, None
    for line in program.splitlines():
        if not line.startswith(" ") and (match := _HEAD.match(line)):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif current is not None:
            current.append(line)
    times, inline, fused = collections.Counter(), {entry}, set()

    def walk(name, count):
        times[name] += count
        for line in computations[name]:
            turns = _turns(line, computations) if " while(" in line else 1
            for how, called in _CALLS.findall(line):
                if how == "to_apply" and " call(" not in line:
                    continue  # what a reduction does to two numbers
                if called in computations:
                    inline.update(
                        {called} if how in ("body", "to_apply") and name in inline else ()
                    )
                    fused.update({called} if " fusion(" in line else ())
                    walk(called, count * (turns if how == "body" else 1))
            branches = ",".join(a or b for a, b in _BRANCHES.findall(line))
            for called in branches.split(","):
                called = called.strip().lstrip("%")
                if called in computations:
                    inline.update({called} if name in inline else ())
                    walk(called, count)

    if entry is None:
        raise ValueError("the text holds no ENTRY computation; it is not a whole HLO module")
    walk(entry, 1)
    return computations, times, inline, fused


def _turns(line, computations):
    """Turns of a counted loop: the one integer constant that its condition compares with, or NaN.

    NaN, and not 1: most loops hold nothing that is counted here, and need not be known.
    """
    if match := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
        return int(match[1])
    match = re.search(r"condition=%?([\w.\-]+)", line)
    text = "\n".join(computations[match[1]]) if match else ""
    constants = set(re.findall(r"s32\[\]\S* constant\((\d+)\)", text))
    return int(constants.pop()) if len(constants) == 1 else math.nan


def _check_turns(times, computation, line):
    if math.isnan(times):
        raise ValueError(
            f"the computation {computation} is in a loop whose number of turns its condition does "
            "not tell (wanted: one integer constant there, or known_trip_count), so that this "
            f"cannot be counted: {line.strip()[:200]}"
        )


def _parameters(lines):
    for line in lines:
        if match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ", line):
            yield match[1], match[2]


def _dims(text):
    return tuple(_SHAPE.findall(text))


def _nbytes(text):
    return sum(
        _BYTES.get(dtype, 1) * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _SHAPE.findall(text)
        if dtype in _BYTES or dtype in ("pred", "s8", "u8")
    )
