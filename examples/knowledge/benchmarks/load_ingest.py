"""The ingest driver of load.py, a process of its own: lets a crawl begin, and ingests what it fetches.

Says a line of JSON when it has begun and one when everything is in; ends when its standard input
does, and with it the crawl and the pages that it set aside.

    python benchmarks/load_ingest.py PAGES
"""

from __future__ import annotations

import json
import sys
import time

import ray
from load_crawl import SET_ASIDE_EVERY, Crawl, CrawledSource

from knowledge.ingest.pipeline import ingest_source


def main() -> None:
    """Run."""
    pages = int(sys.argv[1])
    ray.init(namespace="knowledge", log_to_driver=False, configure_logging=False)
    began_s = time.monotonic()
    crawl = Crawl.remote(pages)  # type: ignore[attr-defined]
    print(json.dumps({"pages": pages}), flush=True)
    aside = -(-pages // SET_ASIDE_EVERY)
    progress = ingest_source(CrawledSource(crawl, pages - aside))
    told = {"seconds": time.monotonic() - began_s, "written": progress.written}
    assert ray.get(crawl.count_aside.remote()) == aside
    print(json.dumps(told), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
