"""A folder belongs to the settings that made it: a killed job goes on there, no other gets in."""

import fnmatch
import json
import os
import uuid
from pathlib import Path
from typing import Any

from dinov3_jax.config import ConfigError


def claim_folder(
    folder: Path, name: str, settings: dict[str, Any], *, holds: str, advice: str
) -> None:
    """Writes ``settings`` as ``folder/name`` into a fresh folder, or finds the same there.

    Of processes that start at once with the same settings all get in.
    ``holds``, what such a folder holds, and ``advice``, what to do about other settings, stand in
    the errors: ``ConfigError`` that names every setting that differs, or for a folder of something
    else.
    """
    ours = json.loads(json.dumps(settings))  # tuples become lists, as they come back
    path = folder / name
    if not path.exists():
        # Asked again last: another process may just have claimed it and begun.
        if _holds_others(folder, name) and not path.exists():
            raise ConfigError(f"{folder} is there and holds no {holds}; give a new or empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(ours, indent=1) + "\n")
    there = read_claim(folder, name)
    changed = [
        f"{key}: {there.get(key)!r} there, {ours.get(key)!r} now"
        for key in sorted(there.keys() | ours.keys())
        if there.get(key) != ours.get(key)
    ]
    if changed:
        raise ConfigError(f"{folder} holds other {holds} ({'; '.join(changed)}); {advice}")


def _holds_others(folder, name):
    """Whether there is anything but drafts of ``name``, which a kill or another process leaves."""
    if not folder.is_dir():
        return folder.exists()
    return any(not fnmatch.fnmatchcase(entry.name, f"{name}*.new") for entry in folder.iterdir())


def _write(path, text):
    """Whole, from a draft of this process alone, unless another process has written it by now."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        draft.write_text(text)
        if not path.exists():
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_claim(folder: Path, name: str) -> dict[str, Any]:
    """The settings that claimed ``folder``; ``ConfigError`` if their file is damaged."""
    path = folder / name
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}); take another folder") from error
