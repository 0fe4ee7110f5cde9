"""A client process of the restart tests: it submits all the time and writes down what it was told.

`python submitter.py NAME HISTORY SECONDS` submits, from several threads, until its standard input ends; it finds the
pipeline by RAY_ADDRESS. Each line of the history is with the kernel when it is written, so a SIGKILL loses none:
`[first, count, began, ended]`, where the records `[first, first + count)` of this client were acknowledged, and what they
began and ended at on the monotonic clock, in s. A submit that was not acknowledged after SECONDS has no line.
"""

import itertools
import os
import sys
import threading
import time

import orjson
import ray

import ringlog

THREADS = 6
RECORDS = 5
SERVICES = [f"service-{number}" for number in range(9)]


def main() -> None:
    """See the module."""
    name, path, timeout_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    host = os.environ["RAY_ADDRESS"].partition(":")[0]
    ray.init(address=os.environ["RAY_ADDRESS"], _node_ip_address=host, log_to_driver=False, logging_level="ERROR")
    pipeline = ringlog.connect()
    history = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    numbers = itertools.count()
    ended = threading.Event()

    def submit() -> None:
        while not ended.is_set():
            number = next(numbers)
            first = RECORDS * number
            service = SERVICES[number % len(SERVICES)]
            records = [{"body": f"{name} {first + one}", "service": service} for one in range(RECORDS)]
            began = time.monotonic()
            try:
                pipeline.submit_logs(records, timeout_s=timeout_s)
            except (ringlog.Unavailable, ringlog.OutcomeUnknown):
                continue
            os.write(history, orjson.dumps([first, RECORDS, began, time.monotonic()]) + b"\n")

    threads = [threading.Thread(target=submit) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    pipeline.close()


if __name__ == "__main__":
    main()
