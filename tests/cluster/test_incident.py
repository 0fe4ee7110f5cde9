"""The notebook of an incident runs from top to bottom, and what it tells is in its data."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[2]


@pytest.mark.cluster
def test_the_incident_is_found(tmp_path: Path) -> None:
    notebook = nbformat.read(PROJECT / "notebooks" / "incident.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), (
        "what it shows is not kept: it is made by whoever runs it"
    )
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    plots = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(plots) == 4
    said = "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    for finding in (
        r"02:03:10  a new kind of kernel error\n02:04:15  first failed order\n02:36:05  somebody acts",
        r"critical medium error, dev sdb.*DataXceiver: writeBlock.*could not be stored.* 504 ",
        r"24000\s+133\s+101\s+32",  # orders; saw an error; placed after all; never placed
        r"version \d+ of the table: [\d,]+ lines.*node-07\s+140$",
    ):
        assert re.search(finding, said, re.DOTALL), finding
