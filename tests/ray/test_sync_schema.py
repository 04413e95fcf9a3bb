"""Our schema of resource-view sync against the one that each Ray's own gcs_server carries."""

from __future__ import annotations

import re

from tests.support.rays import REPOSITORY, RayEnv

SCHEMA = REPOSITORY / "src/mantaray/proto/ray_syncer.proto"
# Between relays only: no Ray has them.
OWN = {
    "RaySyncMessageBatch: bytes relay_digest = 1015",
    "RaySyncMessageBatch: fixed64 relay_repair_request = 1016",
    "RaySyncMessageBatch: fixed64 relay_complete_buckets = 1017",
}
# What one of the two has and the other has not.
NOT_IN = {
    "2.48.0": {
        "RaySyncMessageBatch: repeated RaySyncMessage messages = 1",
        "ResourceViewSyncMessage: map<string, string> labels = 8",
    },
    "2.60.0": {"CommandsSyncMessage: bool cluster_full_of_actors_detected = 2"},
}

# Every C++ program holds the descriptors of its protobuf files as bytes.
PROGRAM = r"""
import json
from pathlib import Path

import ray
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto

SYNTAX = b"b\x06proto3"
program = (Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server").read_bytes()
begin = program.index(b"\n!src/ray/protobuf/ray_syncer.proto\x12")
# The syntax is a file's last field.
end = program.index(SYNTAX, begin) + len(SYNTAX)
file = FileDescriptorProto.FromString(program[begin:end])


def type_of(field, message):
    if field.type not in (Field.TYPE_MESSAGE, Field.TYPE_ENUM):
        return Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = field.type_name.rpartition(".")[2]
    for nested in message.nested_type:
        if nested.name == name and nested.options.map_entry:
            key, value = (type_of(part, nested) for part in nested.field)
            return f"map<{key}, {value}>"
    return name


told = [f"{enum.name}: {value.name} = {value.number}" for enum in file.enum_type for value in enum.value]
for message in file.message_type:
    for field in message.field:
        kind = type_of(field, message)
        many = field.label == Field.LABEL_REPEATED and not kind.startswith("map<")
        told.append(f"{message.name}: {'repeated ' * many}{kind} {field.name} = {field.number}")
methods = [
    f"/{file.package}.{service.name}/{method.name} {method.client_streaming} {method.server_streaming}"
    for service in file.service
    for method in service.method
]
print(json.dumps([told, methods]))
"""


def our_fields() -> set[str]:
    """Return what our schema says, a field or enum value a line."""
    said = set()
    text = re.sub(r"//.*", "", SCHEMA.read_text())
    for name, body in re.findall(r"(?:message|enum) (\w+) \{(.*?)\n\}", text, re.DOTALL):
        for line in body.split(";"):
            if line.strip():
                said.add(f"{name}: {line.strip()}")
    return said


def test_our_schema_says_what_ray_says(ray_env: RayEnv) -> None:
    theirs, methods = ray_env.run_program(PROGRAM)
    ours = our_fields()
    assert set(theirs) <= ours
    assert ours - set(theirs) == OWN | NOT_IN[ray_env.version]
    assert methods == ["/ray.rpc.syncer.RaySyncer/StartSync True True"]
