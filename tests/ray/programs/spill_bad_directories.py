"""Three directories: one that works, one that is full to the last byte at the start, one that is read-only.

Later the full one gets room and the working one fills up.
"""

import os
import sys

import ray
from spill_common import disk_bytes, is_intact, payload, report, start, wait_until

root, good, full, sealed = sys.argv[1:5]
SIZE = 1_000_000
refs = {}


def put(count):
    for number in range(len(refs), len(refs) + count):
        refs[number] = ray.put(payload(number, SIZE))


def wrong():
    return [
        number
        for number, ref in refs.items()
        if not is_intact(number, ray.get(ref, timeout=150), SIZE)
    ]


filler = os.path.join(full, "filler")
try:
    with open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
except OSError as error:
    assert error.strerror == "No space left on device"
paths = start(root, directories=[good, full, sealed], store_mb=80)
put(160)
while_full = {"wrong": wrong(), "in_good": disk_bytes([good]), "in_full": disk_bytes([full])}
os.unlink(filler)
put(160)
with_room = {"wrong": wrong(), "in_full": disk_bytes([full])}
# Space comes back object by object, also where the first look found no room.
for number in list(refs):
    if number % 20:
        del refs[number]
live_bytes = len(refs) * SIZE
follows = wait_until(lambda: disk_bytes(paths) <= 1.1 * live_bytes)
kept = {"wrong": wrong(), "follows": follows, "disk": disk_bytes(paths), "live": live_bytes}
report(while_full=while_full, with_room=with_room, kept=kept)
ray.shutdown()
