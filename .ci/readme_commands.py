"""The README's test command is the one that `.ci/run` runs: fail when they drift apart."""

from pathlib import Path

readme = Path("README.md").read_text()
run = Path(".ci/run").read_text()
for step in ("python3 -m venv .venv", ".venv/bin/pip install --quiet --editable '.[dev]'", ".venv/bin/pytest"):
    for name, text in (("README.md", readme), (".ci/run", run)):
        if step not in text:
            raise SystemExit(f"{name} does not have the step: {step}")
