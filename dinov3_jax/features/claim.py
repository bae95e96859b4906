"""A folder belongs to the settings that made it: a killed job goes on there, no other gets in."""

import json
from pathlib import Path
from typing import Any

from dinov3_jax.config import ConfigError
from dinov3_jax.features.formats import write_text


def claim_folder(
    folder: Path, name: str, settings: dict[str, Any], *, holds: str, advice: str
) -> None:
    """Writes ``settings`` as ``folder/name`` into a fresh folder, or finds the same there.

    ``holds``, what such a folder holds, and ``advice``, what to do about other settings, stand in
    the errors: ``ConfigError`` that names every setting that differs, or for a folder of something
    else.
    """
    ours = json.loads(json.dumps(settings))  # tuples become lists, as they come back
    path = folder / name
    if path.exists():
        there = read_claim(folder, name)
        changed = [
            f"{key}: {there.get(key)!r} there, {ours.get(key)!r} now"
            for key in sorted(there.keys() | ours.keys())
            if there.get(key) != ours.get(key)
        ]
        if changed:
            raise ConfigError(f"{folder} holds other {holds} ({'; '.join(changed)}); {advice}")
        return
    draft = path.with_name(name + ".new")  # of a job that was killed at this very place
    if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - {draft}):
        raise ConfigError(f"{folder} is there and holds no {holds}; give a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(ours, indent=1) + "\n")


def read_claim(folder: Path, name: str) -> dict[str, Any]:
    """The settings that claimed ``folder``; ``ConfigError`` if their file is damaged."""
    path = folder / name
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}); take another folder") from error
