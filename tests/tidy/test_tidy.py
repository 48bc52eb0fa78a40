"""Rules of style that a reviewer should not have to say twice."""

import ast
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from porter_ha.model.reasons import Reason
from porter_ha.obs.metrics import TABLE

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for folder in ("porter_ha", "workers", "tests") for p in (ROOT / folder).rglob("*.py"))
OURS = [p for p in SOURCES if p.parts[len(ROOT.parts)] != "tests"]
MODULE_LINES, FUNCTION_LINES = 420, 60


def names(paths):
    return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize("path", [p for p in SOURCES if p.read_text().strip()], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_begins_by_saying_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES
    for found in ast.walk(ast.parse(text)):
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (found.end_lineno or 0) - found.lineno + 1
            assert length <= FUNCTION_LINES, f"{found.name} has {length} lines"


def test_names_of_the_api_are_typed_once():
    pattern = re.compile(r"\"[a-z.]*(kubesphere\.io|porter-ha\.io)/")
    strays = [str(p.relative_to(ROOT)) for p in OURS if p.name != "names.py" and pattern.search(p.read_text())]
    assert strays == []


def test_every_reason_is_used_and_explained():
    text = "\n".join(p.read_text() for p in OURS if p.name != "reasons.py")
    unused = [r.name for r in Reason if f"Reason.{r.name}" not in text]
    assert unused == []
    assert all(r.doc.endswith(".") for r in Reason)


def test_every_metric_of_the_table_is_given_a_value_and_no_other():
    text = "\n".join(p.read_text() for p in OURS if p.name != "metrics.py")
    given = set(re.findall(r"Sample\(\s*\"(\w+)\"", text)) | {"build_info"}
    given |= set(re.findall(r"observe\([\w.]+, \"(\w+)\"", text))  # what workers time,
    given |= set(re.findall(r"_counters\[\"(\w+)\"\]", text))  # and what they look up before each heartbeat
    assert given == set(TABLE)


def test_no_mock_where_a_real_part_runs():
    strays = [
        p for p in (ROOT / "tests" / "integration").rglob("*.py") if re.search(r"\bmock\b|monkeypatch", p.read_text())
    ]
    assert names(strays) == []


def test_no_registry_is_named():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = re.compile("py" + r"pi\.org|pythonhosted\.org|proxy\.go" + r"lang\.org|deb\.deb" + r"ian\.org")
    assert [p for p in tracked if (ROOT / p).is_file() and hosts.search((ROOT / p).read_text(errors="ignore"))] == []


def test_every_declared_field_of_an_object_is_read():
    """A field that is decoded and then ignored is a promise that nobody keeps."""
    from porter_ha.model import objects

    text = "\n".join(p.read_text() for p in OURS if p.name != "objects.py")
    declared = {
        field
        for struct in vars(objects).values()
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
        for field in struct.__struct_fields__
    }
    inside = (ROOT / "porter_ha/model/objects.py").read_text()
    unread = [f for f in declared if not re.search(rf"\.{f}\b|\"{f}\"", text) and f".{f}" not in inside]
    assert unread == []


def test_docs_follow_the_code():
    written = (ROOT / "docs/reasons.md").read_text()
    assert [r for r in Reason if f"| `{r}` | {r.doc} |" not in written] == [], "run `make reasons`"
    written = (ROOT / "docs/metrics.md").read_text()
    lines = [f"| `porter_ha_{n}` | {kind} | {', '.join(labels)} | {doc} |" for n, (kind, doc, labels) in TABLE.items()]
    assert [line for line in lines if line not in written] == [], "run `make reasons`"


def test_every_yes_in_the_features_names_a_test_that_exists():
    lines = (ROOT / "docs/features.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")][1:4] for line in lines if line.startswith("|")]
    for feature, ours, shown in rows[2:]:
        assert ours.startswith(("yes", "no")), feature
        path = shown.replace("T/", "tests/integration/")
        assert (ROOT / path).is_file() if path else ours.startswith("no"), feature
