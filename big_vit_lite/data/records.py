"""What a record of an ArrayRecord shard is, and the schema.json beside the shards that says so.

    {"encoding": "msgpack", "image": "image", "label": "label", "caption": "caption",
     "class_names": ["ant", "bee"], "records": {"train": 1797}}

Only `encoding` must be given. `image`, `label` and `caption` name fields of a record and are
overridden by the config's image_key, label_key and caption_key; `records` counts those of each
split, so that a lost one is noticed. Encodings:

- "msgpack": a map from field to value, as `tools/prepare.py` writes. The image is the bytes of an
  encoded file, the label a number or a name, the caption a text or a list of texts.
- "example": a tf.train.Example (TFRecord data sets carried over), parsed without TensorFlow.
- "image": the bare bytes of an encoded file; labels stand in labels.npz.

labels.npz, optional but for "image", holds the label numbers of each shard under its file name:
samplers and parts then need not read the records. `tools/prepare.py` writes it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from big_vit_lite.config import InputError

SCHEMA, LABELS, CHECKSUMS = "schema.json", "labels.npz", "checksums.json"


class Schema(BaseModel):
    """The content of schema.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    encoding: Literal["msgpack", "example", "image"]
    image: str = "image"
    label: str = "label"
    caption: str = "caption"
    class_names: tuple[str, ...] | None = None
    records: dict[str, int] = Field(default_factory=dict)


def read_schema(folder: str | Path, where: str) -> Schema:
    """The schema of the shards in `folder`.

    Raises:
      InputError: there is none, or it says something else than a schema.
    """
    file = Path(folder) / SCHEMA
    try:
        return Schema.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise InputError(
            f"{where}.path: {folder} has no {SCHEMA}, which says what a record is; write one such "
            'as {"encoding": "example", "image": "image/encoded", "label": "image/class/label"} '
            "(encoding: msgpack, example or image)"
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "it"
        raise InputError(f"{where}.path: {file}: {key}: {fault['msg']}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{where}.path: {file} cannot be read ({error})") from None


def encode(fields: Mapping[str, Any]) -> bytes:
    """A record of encoding "msgpack"."""
    import msgpack

    return msgpack.packb(fields)


def decode(record: bytes, encoding: str) -> dict[str, Any]:
    """The fields of a record.

    Numbers, text and bytes are as stored, lists of one value are that value where the encoding
    knows only lists.

    Raises:
      ValueError: the record is not of that encoding; the text says what is wrong.
    """
    if not record:
        raise ValueError("the record is empty")
    if encoding == "image":
        return {"image": record}
    return _decode_msgpack(record) if encoding == "msgpack" else _decode_example(record)


def _decode_msgpack(record: bytes) -> dict[str, Any]:
    import msgpack

    try:
        fields = msgpack.unpackb(record)
    except Exception as error:  # of several types, text that is no UTF-8 among them
        raise ValueError(f"the record is no msgpack ({error or type(error).__name__})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"the record holds {type(fields).__name__}, not a map of fields")
    return fields


def _decode_example(record: bytes) -> dict[str, Any]:
    from google.protobuf.message import DecodeError

    try:
        example = _example_type().FromString(record)
    except DecodeError:
        raise ValueError("the record is no tf.train.Example") from None
    fields = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        fields[name] = values[0] if len(values) == 1 else values
    if not fields:
        raise ValueError("the record is no tf.train.Example with features")
    return fields


@functools.cache
def _example_type() -> Any:
    """The message tf.train.Example (tensorflow/core/example/{example,feature}.proto).

    In a pool of its own: TensorFlow, where someone imports it too, registers the same names.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str], inside: Any = None) -> Any:
        made = (inside.nested_type if inside else file.message_type).add(name=name)
        for number, (field, label, kind, of) in enumerate(fields, 1):
            made.field.add(name=field, number=number, label=label, type=kind, type_name=of or None)
        return made

    one, many, nested = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE
    message("BytesList", ("value", many, kinds.TYPE_BYTES, ""))
    message("FloatList", ("value", many, kinds.TYPE_FLOAT, ""))
    message("Int64List", ("value", many, kinds.TYPE_INT64, ""))
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    feature = message("Feature", *((field, one, nested, f".t.{of}") for field, of in lists))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", many, nested, ".t.Features.FeatureEntry"))
    key, value = ("key", one, kinds.TYPE_STRING, ""), ("value", one, nested, ".t.Feature")
    message("FeatureEntry", key, value, inside=features).options.map_entry = True
    message("Example", ("features", one, nested, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))
