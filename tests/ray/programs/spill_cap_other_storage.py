"""A cap on spill files in the system configuration beside a storage that is not Mantaray's."""

import json
import sys

import ray
from spill_common import report

ray.init(
    address="local",
    num_cpus=1,
    include_dashboard=False,
    _temp_dir=sys.argv[1],
    _system_config={
        "object_spilling_config": json.dumps(
            {"type": "smart_open", "params": {"uri": "file:///tmp"}}
        ),
        "max_spilling_file_size_bytes": 200_000_000,
    },
)
report(started=True)
ray.shutdown()
