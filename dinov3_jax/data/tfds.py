"""A TensorFlow Datasets set that is already prepared on disk; TensorFlow itself is not needed."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from dinov3_jax.data.record import Record, SourceError, fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """Records in the order of the prepared files, images still encoded."""

    name: str  # "name/version:split"
    data: Any  # the random-access data source of TFDS
    classes: tuple[str, ...] | None
    fingerprint: str

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [len]; the first use reads every record."""
        return self._labels

    @functools.cached_property
    def _labels(self) -> np.ndarray | None:
        if self.classes is None:
            return None
        return np.array([self.data[i]["label"] for i in range(len(self))], np.int32)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        example = self.data[index]
        label = None if self.classes is None else int(example["label"])
        return Record(example["image"], f"{self.name}/{index}", label)


def open_tfds(path: str) -> TfdsSource:
    """Source of "name:split", e.g. "imagenet_v2:test", or "DIR:split" of one prepared version.

    The set must be prepared in the ArrayRecord format and have an ``image`` feature; environment
    variable TFDS_DATA_DIR says where named sets are.
    """
    # Imported here: it takes seconds, and only this kind of source needs it.
    import tensorflow_datasets as tfds

    name, colon, split = path.rpartition(":")
    if not (name and colon and split):
        raise SourceError(f"data.path is {path!r}, wanted 'name:split' of a TFDS data set")
    prepare = f"`tfds build {name} --file_format=array_record` prepares it"
    builder: Any
    try:
        if os.path.isdir(name):
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise SourceError(f"TFDS knows no data set {name!r}; correct data.path") from error
    if split.split("[")[0] not in builder.info.splits:
        raise SourceError(
            f"{name} has splits {sorted(builder.info.splits)}, wanted {split!r}; correct data.path "
            f"(none means that the set is not in {builder.data_dir}: {prepare})"
        )
    features: Any = builder.info.features
    if "image" not in features:
        raise SourceError(f"{name} has features {sorted(features)}, wanted 'image' among them")
    stored = builder.info.file_format
    if stored != tfds.core.file_adapters.FileFormat.ARRAY_RECORD:
        raise SourceError(f"{name} is stored as {stored}, which has no random access; {prepare}")
    skip = {"image": tfds.decode.SkipDecoding()}
    data = builder.as_data_source(split=split, decoders=skip)
    names = getattr(features["label"], "names", None) if "label" in features else None
    classes = tuple(names) if names else None
    full_name = f"{builder.info.full_name}:{split}"
    return TfdsSource(full_name, data, classes, fingerprint([f"{full_name} {len(data)}"]))
