"""Takes real processes through scenarios; prints what could be seen after each step, as JSON.

Its argument is a file: {scenario: {"steps": [[word, ...], ...], "expected": [tables, ...], "reads": [word,
...]}}. After each step the tables are looked at until they are as expected and stay so, or for a while;
what is printed is what was seen in the end. Some scenarios go on at the same time, each with actors and
objects of its own, because most of the time is waiting. See tests/support/refcount_scenarios.py for the
words.
"""

import gc
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
import ray.cloudpickle

# What is waited for comes soon, or, on a machine with much else to do, late.
PATIENCE_S = 40.0
STAYS_S = 0.15
LARGE_BYTES = 500_000
AT_ONCE = 3


class Player:
    """A process of a scenario, what its Python code holds, and the words it understands."""

    def __init__(self):
        self.held = {}
        self.ends = {}
        self.errors = []

    def start(self):
        """Get a new process ready; return its id."""
        forget_about_old()
        return os.getpid()

    def begin(self, names, lane):
        """Begin a scenario with nothing; names: what Ray calls the actors."""
        self.names = names
        self.lane = lane
        self.held.clear()
        self.ends.clear()
        gc.collect()

    def table(self, names_by_id):
        """{name: [local, submitted]} of this process's own table."""
        # Not at the top of the file: it would be sent along with this class.
        from ray._private.worker import global_worker

        gc.collect()
        counts = global_worker.core_worker.get_all_reference_counts()
        return {
            names_by_id[key.decode()]: [count["local"], count["submitted"]]
            for key, count in counts.items()
            if key.decode() in names_by_id
        }

    def ids(self):
        return {ref.hex(): name for name, ref in self.held.items()}

    def do(self, words):
        """Take a step; return the ids of what this process now holds, and what a "read" saw."""
        word, *rest = words
        said = getattr(self, f"do_{word}")(*rest)
        return self.ids(), said

    def other(self, name):
        return ray.get_actor(self.names[name])

    def refs(self, names):
        return [self.held[name] for name in names]

    def do_put(self, name, *inner):
        self.held[name] = ray.put(self.refs(inner) if inner else name)

    def do_give(self, whom, *names):
        ray.get(self.other(whom).keep.remote(list(names), self.refs(names)))

    def do_lend(self, whom, *names):
        ray.get(self.other(whom).keep.remote([], self.refs(names)))

    def do_unpack(self, whom, name, *inner):
        ray.get(self.other(whom).keep.remote(list(inner), self.held[name]))

    def do_ask(self, whom, result, *names):
        self.held[result] = self.other(whom).hand_over.remote(list(names))
        ray.wait([self.held[result]])

    def do_open(self, outer, *inner):
        self.held.update(zip(inner, ray.get(self.held[outer]), strict=True))

    def do_make(self, result, *names):
        self.held[result] = make.remote(LARGE_BYTES, self.refs(names))
        ray.wait([self.held[result]])

    def do_small(self, result, *names):
        self.held[result] = make.remote(1, self.refs(names))
        ray.wait([self.held[result]])

    def do_start(self, whom, result, *names):
        self.held[result] = self.other(whom).go_on.remote(result, self.refs(names))

    def do_use(self, whom, result, name):
        self.held[result] = self.other(whom).go_on.remote(result, self.held[name])

    def do_finish(self, result):
        self.ends.setdefault(result, threading.Event()).set()

    def do_drop(self, *names):
        for name in names:
            del self.held[name]
        gc.collect()

    def do_dump(self, name):
        with open(f"{scratch()}/{self.lane}-{name}", "wb") as file:
            file.write(ray.cloudpickle.dumps(self.held[name]))

    def do_load(self, name):
        with open(f"{scratch()}/{self.lane}-{name}", "rb") as file:
            self.held[name] = pickle.loads(file.read())

    def do_read(self, name):
        try:
            ray.get(self.held[name], timeout=4)
        except ray.exceptions.OwnerDiedError:
            return "owner died"
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ObjectLostError) as error:
            self.errors.append(f"{name}: {type(error).__name__}")
            return "gone"
        return "value"

    # What the others call.

    def keep(self, names, refs):
        self.held.update(zip(names, refs, strict=False))

    def hand_over(self, names):
        return self.refs(names)

    def go_on(self, result, _):
        self.ends.setdefault(result, threading.Event()).wait()


def forget_about_old():
    """What is there already is no garbage: let no collection go through it again."""
    gc.collect()
    gc.freeze()


def scratch():
    return os.environ["SCRATCH"]


@ray.remote(max_retries=1, num_cpus=0.5)
def make(size_bytes, _):
    return np.zeros(size_bytes, np.uint8)


def watch(tables_now, expected):
    """Look until it is as expected and stays so; return what was seen last."""
    deadline = time.monotonic() + PATIENCE_S
    since = None
    while True:
        seen = tables_now()
        now = time.monotonic()
        if seen != expected:
            since = None
            if now > deadline:
                return seen
        else:
            since = since or now
            if now - since >= STAYS_S:
                return seen
        time.sleep(0.02)


class Actors:
    """The actors of some scenarios, made when they are first needed; one that was killed is replaced."""

    def __init__(self, lane):
        self.lane = lane
        self.made = 0
        self.handles = {}
        self.pids = {}
        self.names = {}

    def ready(self, wanted):
        """Return the actors with these names, none of which holds anything."""
        actor = ray.remote(num_cpus=0, max_concurrency=8)(Player)
        for name in set(wanted) - set(self.handles):
            self.made += 1
            self.names[name] = f"{self.lane}-{name}{self.made}"
            self.handles[name] = actor.options(name=self.names[name]).remote()
            self.pids[name] = ray.get(self.handles[name].start.remote())
        ray.get([each.begin.remote(self.names, self.lane) for each in self.handles.values()])
        return {name: self.handles[name] for name in wanted}

    def kill(self, name):
        del self.handles[name]
        os.kill(self.pids[name], signal.SIGKILL)


def play(all_actors, steps, expected, reads):
    """Go through one scenario."""
    others = sorted({w for words in steps for w in words[1:3] if w in ("a", "b", "c")})
    actors = all_actors.ready(others)
    driver = Player()
    driver.begin(all_actors.names, all_actors.lane)
    names_by_id = {}

    def tables():
        found = {"driver": driver.table(names_by_id)}
        asked = {who: each.table.remote(names_by_id) for who, each in actors.items()}
        for who, answer in asked.items():
            found[who] = ray.get(answer)
        return found

    seen = []
    for words, wanted, wanted_read in zip(steps, expected, reads, strict=True):
        word, who, *rest = words
        said = None
        # Copies of what was freed, or whose owner died, stay readable until their raylet hears of it.
        deadline = time.monotonic() + PATIENCE_S
        while True:
            if word == "kill":
                actors.pop(who)
                all_actors.kill(who)
            elif who == "driver":
                ids, said = driver.do([word, *rest])
                names_by_id.update(ids)
            else:
                ids, said = ray.get(actors[who].do.remote([word, *rest]))
                names_by_id.update(ids)
            if said == wanted_read or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        # A process shows up in what is expected when it first does something.
        wanted = {each: wanted.get(each, {}) for each in ("driver", *actors)}
        seen.append({"tables": watch(tables, wanted), "read": said})
    driver.held.clear()
    return seen


with open(sys.argv[1]) as file:
    scenarios = json.load(file)
root = tempfile.mkdtemp(prefix="mr-", dir="/tmp")
os.environ["SCRATCH"] = root
ray.init(
    address="local",
    num_cpus=4,
    include_dashboard=False,
    log_to_driver=False,
    object_store_memory=150_000_000,
    _temp_dir=root,
    runtime_env={"env_vars": {"SCRATCH": root}},
)
results = {}
left = iter(scenarios.items())
taking = threading.Lock()


def play_some(lane):
    """Go through what nobody else has begun, one after the other, until nothing is left."""
    players = Actors(lane)
    while True:
        with taking:
            name, scenario = next(left, (None, None))
        if name is None:
            return
        begin = time.monotonic()
        try:
            results[name] = play(players, **scenario)
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
        print(lane, round(time.monotonic() - begin, 1), name, file=sys.stderr, flush=True)


forget_about_old()
with ThreadPoolExecutor(AT_ONCE) as pool:
    list(pool.map(play_some, range(AT_ONCE)))
ray.shutdown()
print(json.dumps(results))
