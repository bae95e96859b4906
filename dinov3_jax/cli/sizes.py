"""Image sizes on the command line: 256, 224x320 or none."""

import argparse
import re


def parse_size(text: str) -> int | tuple[int, int] | None:
    """One number, (height, width) or None; an argparse type."""
    if text == "none":
        return None
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not sides:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; wanted 256, 224x320 or none")
    height, width = sides.groups()
    return int(height) if width is None else (int(height), int(width))
