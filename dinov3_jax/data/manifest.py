"""A listing of image files: JSON lines with ``path`` and, as one likes, ``id`` and ``label``.

{"path": "2024/a.jpg", "id": "a", "label": "cat"}
"""

import dataclasses
import json
import os

import numpy as np

from dinov3_jax.data.record import Record, SourceError, check_ids, fingerprint

_KEYS = {"path": str, "id": str, "label": (int, str)}


@dataclasses.dataclass(frozen=True, eq=False)
class ManifestSource:
    """Files in the order of the lines; ``id`` is the path as written where a line has none."""

    root: str
    files: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        with open(os.path.join(self.root, self.files[index]), "rb") as file:
            data = file.read()
        label = None if self.labels is None else int(self.labels[index])
        return Record(data, self.ids[index], label)


def open_manifest(path: str) -> ManifestSource:
    """Source of a file of JSON lines; paths are relative to its folder.

    Labels are all integers, or all class names (then they number the sorted names), or in no line.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise SourceError(f"there is no file {path}; wanted one of JSON lines")
    with open(path, encoding="utf-8") as stream:
        rows = [_row(line, f"{path}, line {n}") for n, line in enumerate(stream, 1) if line.strip()]
    if not rows:
        raise SourceError(f"{path} has no lines; wanted one an image")
    ids = tuple(row.get("id", row["path"]) for row in rows)
    check_ids(ids, path)
    labels = [row.get("label") for row in rows]
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        names = sorted(kind.__name__.replace("NoneType", "none") for kind in kinds)
        raise SourceError(
            f"{path} has labels of the types {', '.join(names)}; wanted int in every line, str in "
            "every line, or no label at all"
        )
    classes = tuple(sorted({str(label) for label in labels})) if kinds == {str} else None
    if classes is not None:
        number = {name: i for i, name in enumerate(classes)}
        labels = [number[str(label)] for label in labels]
    return ManifestSource(
        os.path.dirname(path),
        tuple(row["path"] for row in rows),
        ids,
        None if kinds == {type(None)} else np.array(labels, np.int32),
        classes,
        fingerprint(json.dumps([row["path"], row.get("id"), row.get("label")]) for row in rows),
    )


def _row(line: str, where: str) -> dict:
    wanted = 'wanted {"path": "a.jpg"} with perhaps "id" and "label"'
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{where} is no JSON ({error}); {wanted}") from error
    if not isinstance(row, dict) or "path" not in row:
        raise SourceError(f"{where} has no path; {wanted}")
    for key, value in row.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise SourceError(f"{where} has {key} = {value!r}; {wanted} (str, str, int or str)")
    return row
