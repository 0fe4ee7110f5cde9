"""Start a pipeline in the Ray cluster that runs this job.

`ray job submit --working-dir jobs -- python start_pipeline.py --root s3://bucket/logs`
"""

import argparse

import ringlog


def main() -> None:
    """Start it, or find the one that runs, and say where its table is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="a local folder or s3://bucket/prefix")
    parser.add_argument("--journal-dir", help="local folder of the journals, on every node")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--replicas", type=int)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    pipeline = ringlog.start(**given)
    print(f"ringlog is up: {pipeline.status()['root']}")


if __name__ == "__main__":
    main()
