"""Put log files into the pipeline of this cluster: `ray job submit --working-dir jobs -- python ingest_files.py PATH…`.

The paths are those of the node on which the job runs, or fsspec URLs.
"""

import argparse
import socket
import time

import ringlog
from ringlog.client.files import expand, read_records


def main() -> None:
    """Submit every line of every file, and archive them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--service", help="default: each file's name without its suffix")
    arguments = parser.parse_args()
    pipeline = ringlog.connect()
    for path in expand(arguments.paths):
        futures = []
        host = socket.gethostname()
        for block in read_records(path, service=arguments.service, host=host, now_ns=time.time_ns()):
            for line, problem in block.problems.items():
                print(f"{path}, line {line}: {problem}")
            if block.batch.num_rows:
                futures.append(pipeline.submit_logs(block.batch, wait=False))
        print(f"{path}: {sum(future.result().records for future in futures)} records acknowledged")
    pipeline.flush()


if __name__ == "__main__":
    main()
