"""Requests for whole job logs of every kind: what comes, and how much memory the servers take for it.

Arguments: the dashboard's address, a job, its log, the process ids of the servers (JSON: agent, head,
module), the size of the large log in bytes, and which parts to run: "answers" (what any Ray answers),
"bounds" (what holds for Mantaray only), "lost" (the agent dies; nothing is answered after that) or "huge"
(only the large log), separated by commas.
"""

import glob
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time

import ray
from ray.job_submission import JobSubmissionClient

url, job, log, pids, large_bytes, parts = sys.argv[1:]
pids, large_bytes = json.loads(pids), int(large_bytes)
host, port = url.removeprefix("http://").split(":")
client = JobSubmissionClient(url)
PIECE = 'an ordinary line with "quotes" and \\ signs\nä€😀 \x1b[31mred\x1b[0m\r\n 42%\r 43%\n'
TEXT = PIECE.replace("\r\n", "\n").replace("\r", "\n")


def request(job):
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    # Ray 2.48 fails at requests that do not name their agent.
    connection.request("GET", f"/api/jobs/{job}/logs", headers={"User-Agent": "test"})
    return connection.getresponse()


def digest(response):
    """Read an answer; return its size and SHA-256."""
    sum_, size = hashlib.sha256(), 0
    while block := response.read(1 << 20):
        sum_.update(block)
        size += len(block)
    return [size, sum_.hexdigest()]


def answer(job):
    """The answer, errors without their stack."""
    response = request(job)
    kind = response.getheader("Content-Type")
    if response.status == 200:
        return [200, kind, *digest(response)]
    last = response.read().decode().strip(" .\n").splitlines()[-1]
    # The name of Mantaray's error begins with its module.
    return [response.status, kind, last.split("Error: ", 1)[-1]]


def write_large():
    with open(log, "wb") as file:
        block = PIECE.encode() * 10_000
        while file.tell() < large_bytes:
            file.write(block)


def expected_large():
    """What the answer is to be, made without Ray or Mantaray."""
    blocks = -(-large_bytes // len(PIECE.encode() * 10_000))
    block = json.dumps(TEXT)[1:-1].encode() * 10_000
    sum_ = hashlib.sha256(b'{"logs": "')
    for _ in range(blocks):
        sum_.update(block)
    sum_.update(b'"}')
    return [200, "application/json; charset=utf-8", blocks * len(block) + 12, sum_.hexdigest()]


def peaks_mb(action):
    """What each server held at most during an action, above what it held before, in MB."""

    def held_kb(pid, field):
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field))

    before = {}
    for role, pid in pids.items():
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")
        before[role] = held_kb(pid, "VmRSS:")
    result = action()
    return {r: (held_kb(pid, "VmHWM:") - before[r]) / 1e3 for r, pid in pids.items()}, result


def is_open_in_agent():
    names = glob.glob(f"/proc/{pids['agent']}/fd/*")
    return any(os.path.exists(name) and os.readlink(name) == log for name in names)


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def answers():
    seen = {"job's own": request(job).read().decode()}
    contents = {
        "empty": b"",
        "line ends": b"a\r\nb\rc\n\rd",
        "no text": b"text\n" * 100_000 + b"\xff" + b"text\n",
        "cut off": b"text\n" * 100_000 + "€".encode()[:2],
        "controls": bytes(range(128)) * 100,
    }
    for name, content in contents.items():
        with open(log, "wb") as file:
            file.write(content)
        seen[name] = answer(job)
    write_large()
    seen["large"] = answer(job)
    seen["expected"] = expected_large()
    os.unlink(log)
    seen["missing"] = answer(job)
    os.mkdir(log)
    seen["directory"] = answer(job)[0]
    os.rmdir(log)
    seen["unknown job"] = answer("nobody")
    ray.init(log_to_driver=False)
    seen["driver"] = answer(ray.get_runtime_context().get_job_id())
    ray.shutdown()
    with open(log, "w", newline="") as file:
        file.write(PIECE * 1000)
    seen["client"] = client.get_job_logs(job) == TEXT * 1000
    command = [f"{os.path.dirname(sys.executable)}/ray", "job", "logs", job]
    address = {"RAY_ADDRESS": url}
    said = subprocess.run(command, env=os.environ | address, capture_output=True, text=True)
    seen["command"] = TEXT * 1000 in said.stdout
    return seen


def slowly(response):
    """Read for two seconds, far more slowly than the log could come."""
    for _ in range(20):
        response.read(65_536)
        time.sleep(0.1)
    response.close()


def growing():
    """Read a log that grows all the time; return whether what came is whole, and its beginning."""
    with open(log, "w") as file:
        file.write("begin\n")
    # 25 MB/s at most: it is to grow, not to be long.
    step = "file.write('more\\n' * 10000); file.flush(); time.sleep(0.002)"
    code = f"import time\nfile = open({log!r}, 'a')\nwhile True: {step}"
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(1)
        return json.loads(request(job).read())["logs"].startswith("begin\nmore\n")
    finally:
        writer.kill()
        writer.wait()


def cut_short():
    """Lose the agent while it sends; return what the client gets to know of it."""
    response = request(job)
    response.read(65_536)
    os.kill(pids["agent"], signal.SIGKILL)
    try:
        response.read()
    except http.client.HTTPException as error:
        return type(error).__name__
    except ConnectionError:
        return "ConnectionError"
    return "nothing"


def bounds():
    seen = {"growing": growing()}
    write_large()
    seen["fast_mb"], seen["large"] = peaks_mb(lambda: answer(job))
    seen["expected"] = expected_large()
    seen["slow_mb"], _ = peaks_mb(lambda: slowly(request(job)))
    seen["closed behind a client that left"] = wait_until(lambda: not is_open_in_agent())
    at_once = [request(job) for _ in range(3)]
    seen["at once"] = [digest(response) for response in at_once]
    return seen


def lost():
    write_large()
    return {"cut short": cut_short(), "agent gone": answer(job)[0]}


def huge():
    write_large()
    seen = {"expected": expected_large()}
    seen["fast_mb"], seen["large"] = peaks_mb(lambda: answer(job))
    return seen


results = {}
for part in parts.split(","):
    results |= {"answers": answers, "bounds": bounds, "lost": lost, "huge": huge}[part]()
print(json.dumps(results), flush=True)
