"""Jobs that may be larger than the object store.

Each yields the numbers of all its rows, once or several times. A job that yields None says that its
preparation is over, and that the time starts now. The jobs of Ray Data need pandas and pyarrow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

ROW_INTS = 128
INT_BYTES = 8
ROW_BYTES = ROW_INTS * INT_BYTES
LARGE_ROW_INTS = 2048
# So many rows make an object of 150 KB.
ROWS_OF_150_KB = 150_000 // ROW_BYTES
GROUPS = 64
# A prime, so that the keys of neighbouring rows lie far apart.
STRIDE = 1_000_003


@dataclass(frozen=True)
class Job:
    """A job of this file.

    Attributes:
        title: what it does, in a few words.
        run: yields columns of row numbers, given the number of rows and of blocks.
        passes: how often it yields every row.
        nodes: how many nodes of the cluster it needs.
        needs_ray_data: whether it needs Ray Data's own requirements.
        row_ints: how many integers of 8 bytes a row has. Ray Data sorts and groups row by row, so jobs with
            many small rows show how fast that is, and not the store.
    """

    title: str
    run: Callable[[int, int], Iterator[Any]]
    passes: int = 1
    nodes: int = 1
    needs_ray_data: bool = True
    row_ints: int = ROW_INTS


def start_cluster(store_bytes: int, directory: str, *, nodes: int) -> None:
    """Start one node with two processors, and others that hold everything in memory; connect to the first.

    Args:
        store_bytes: the size of the first node's object store.
        directory: where it spills to.
        nodes: how many there are.
    """
    options = {"num_cpus": 2, "object_store_memory": store_bytes, "include_dashboard": False}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if nodes == 1:
        ray.init(address="local", object_spilling_directory=directory, **options, **quiet)
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={**options, "object_spilling_directory": directory},
    )
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1, resources={"other": 1}, object_store_memory=int(4e9))
    ray.init(address=cluster.address, **quiet)


def make_rows(first: int, count: int) -> Any:
    rows = np.empty((count, ROW_INTS), dtype=np.int64)
    rows[:] = np.arange(first, first + count, dtype=np.int64)[:, None]
    return rows


def shuffle_by_tasks(rows: int, blocks: int) -> Iterator[Any]:
    """Yield the first column of each shuffled block."""
    bounds = np.linspace(0, rows, blocks + 1).astype(int)

    def cut(number: int) -> Any:
        first, last = int(bounds[number]), int(bounds[number + 1])
        block = make_rows(first, last - first)
        order = np.random.default_rng(number).permutation(len(block))
        parts = [block[chosen] for chosen in np.array_split(order, blocks)]
        return parts if blocks > 1 else parts[0]

    def join(number: int, *parts: Any) -> Any:
        block = np.concatenate(parts)
        return block[np.random.default_rng(number).permutation(len(block))]

    cut_task, join_task = ray.remote(num_returns=blocks)(cut), ray.remote(join)
    cuts = [cut_task.remote(number) for number in range(blocks)]
    # A single return value comes as a bare reference.
    cuts = [parts if isinstance(parts, list) else [parts] for parts in cuts]
    joined = [
        join_task.remote(number, *(parts[number] for parts in cuts)) for number in range(blocks)
    ]
    del cuts
    joined.reverse()
    while joined:
        yield ray.get(joined.pop())[:, 0]


def dataset_of(rows: int, blocks: int, row_ints: int = ROW_INTS) -> Any:
    """Return a dataset whose column `data` holds each row's number, many times."""
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.range_tensor(rows, shape=(row_ints,), override_num_blocks=blocks)


def numbers_in(dataset: Any) -> Iterator[Any]:
    """Yield the row numbers of each batch."""
    for batch in dataset.iter_batches(batch_size=4096, batch_format="numpy"):
        yield batch["data"][:, 0]


def shuffle_by_ray_data(rows: int, blocks: int) -> Iterator[Any]:
    """Shuffle a dataset."""
    yield from numbers_in(dataset_of(rows, blocks).random_shuffle())


def sort_by_ray_data(rows: int, blocks: int) -> Iterator[Any]:
    """Sort a dataset by a key that is spread over all blocks.

    Raises:
        RuntimeError: the result is not sorted.
    """

    def add_key(batch: Any) -> Any:
        batch["key"] = batch["data"][:, 0] * STRIDE % rows
        return batch

    dataset = dataset_of(rows, blocks, LARGE_ROW_INTS)
    dataset = dataset.map_batches(add_key, batch_format="numpy").sort("key")
    last = -1
    for batch in dataset.iter_batches(batch_size=4096, batch_format="numpy"):
        keys = batch["key"]
        if keys[0] < last or (np.diff(keys) < 0).any():
            raise RuntimeError("the result is not sorted")
        last = keys[-1]
        yield batch["data"][:, 0]


def group_by_ray_data(rows: int, blocks: int) -> Iterator[Any]:
    """Bring the rows of each group together.

    Raises:
        RuntimeError: a row is in the wrong group.
    """

    def add_key(batch: Any) -> Any:
        batch["key"] = batch["data"][:, 0] % GROUPS
        return batch

    def take(group: Any) -> Any:
        return {"number": group["data"][:, 0], "key": group["key"]}

    dataset = dataset_of(rows, blocks, LARGE_ROW_INTS).map_batches(add_key, batch_format="numpy")
    groups = dataset.groupby("key", num_partitions=blocks)
    result = groups.map_groups(take, batch_format="numpy")
    for batch in result.iter_batches(batch_size=None, batch_format="numpy"):
        if (batch["number"] % GROUPS != batch["key"]).any():
            raise RuntimeError("a row is in the wrong group")
        yield batch["number"]


def two_epochs(rows: int, blocks: int) -> Iterator[Any]:
    """Pass over a materialised dataset twice."""
    dataset = dataset_of(rows, blocks).materialize()
    yield None
    for _ in range(2):
        yield from numbers_in(dataset)


def put_rows(rows: int, rows_each: int) -> list[Any]:
    """Put objects of so many rows each and return their references."""
    return [
        ray.put(make_rows(first, min(rows_each, rows - first)))
        for first in range(0, rows, rows_each)
    ]


def random_gets(rows: int, blocks: int) -> Iterator[Any]:
    """Get objects of 150 KB one by one, in random order. The number of blocks does not count."""
    refs = put_rows(rows, ROWS_OF_150_KB)
    order = np.random.default_rng(0).permutation(len(refs))
    yield None
    for number in order:
        yield ray.get(refs[number])[:, 0]


def remote_pull(rows: int, blocks: int) -> Iterator[Any]:
    """Let a task on another node get all objects, which were spilled on this one."""

    def numbers_of(refs: list[Any]) -> Any:
        return np.concatenate([ray.get(ref)[:, 0] for ref in refs])

    refs = put_rows(rows, max(1, rows // blocks))
    yield None
    yield ray.get(ray.remote(resources={"other": 1})(numbers_of).remote(refs))


JOBS = {
    "tasks": Job("shuffle by tasks", shuffle_by_tasks, needs_ray_data=False),
    "data": Job("shuffle by Ray Data", shuffle_by_ray_data),
    "sort": Job("sort by Ray Data", sort_by_ray_data, row_ints=LARGE_ROW_INTS),
    "groupby": Job("group by key with Ray Data", group_by_ray_data, row_ints=LARGE_ROW_INTS),
    "epochs": Job("two epochs over a materialised dataset", two_epochs, passes=2),
    "gets": Job("get objects of 150 KB in random order", random_gets, needs_ray_data=False),
    "pull": Job("pull by another node", remote_pull, nodes=2, needs_ray_data=False),
}
