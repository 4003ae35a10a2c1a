"""The documents name things that exist: tests, files and dependencies."""

from __future__ import annotations

import ast
import configparser
import re
from functools import cache
from pathlib import Path

import pytest

from b2fs.config.settings import OPTIONS, Option
from b2fs.daemon.sockets import RUNTIME_VARIABLE

ROOT = Path(__file__).parents[2]
OPTIONS_TEXT = ROOT / "docs" / "options.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS, *sorted((ROOT / "contrib").rglob("*.md"))]
SEMANTICS = ROOT / "docs" / "semantics.md"

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_TEST = re.compile(r"\b(tests/[\w./-]+\.py)::(\w+)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
#: A path of the repository between backquotes; what has a placeholder or a wildcard is none.
_PATH = re.compile(r"`((?:b2fs|tests|docs|benchmarks|scripts|contrib)/[\w./@-]*)`")
#: `Class.method` between backquotes, behind its module or not.
_METHOD = re.compile(r"`(?:[a-z_]\w*\.)*([A-Z]\w+)\.(\w+)`")
_CLAIM = re.compile(r"^- \*\*([A-Z]+\d+)\*\* (.*?)(?=^- |^#|\Z)", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The test functions of a file, those in classes included, without importing it."""
    tree = ast.parse(path.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test"))


def anchor(heading: str) -> str:
    """What a link to this heading says behind its '#', as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    return {anchor(heading) for heading in _HEADING.findall(_FENCE.sub("", path.read_text()))}


def missing_tests(text: str) -> list[str]:
    """The tests that a text names and that do not exist."""
    found = []
    for file, function in _TEST.findall(text):
        path = ROOT / file
        if not path.is_file() or function not in functions_of(path):
            found.append(f"{file}::{function}")
    return found


def broken_links(path: Path) -> list[str]:
    """The relative links of a document that lead nowhere."""
    found = []
    for link in _LINK.findall(_CODE.sub("", _FENCE.sub("", path.read_text()))):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        file, _, fragment = link.partition("#")
        target = path.parent / file if file else path
        inside = target.resolve().is_relative_to(ROOT)
        if not inside or not target.exists() or (fragment and fragment not in anchors_of(target)):
            found.append(link)
    return found


def dependencies() -> list[str]:
    """The names in install_requires."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].split("\n")
    return [match[0] for line in lines if (match := re.match(r"[\w.-]+", line.strip()))]


@pytest.mark.parametrize("document", TEXTS, ids=name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    assert missing_tests(document.read_text()) == []


@pytest.mark.parametrize("document", TEXTS, ids=name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


@pytest.mark.parametrize("document", TEXTS, ids=name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    text = _FENCE.sub("", document.read_text())
    assert [path for path in _PATH.findall(text) if not (ROOT / path).exists()] == []


def test_every_claim_of_the_semantics_names_a_test() -> None:
    claims = _CLAIM.findall(SEMANTICS.read_text())
    assert len(claims) > 30
    assert [number for number, text in claims if not _TEST.search(text)] == []


def test_claims_have_numbers_of_their_own() -> None:
    numbers = [number for number, _ in _CLAIM.findall(SEMANTICS.read_text())]
    assert sorted(set(numbers)) == sorted(numbers)


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    explained = set(re.findall(r"^\| ([\w.-]+) \| \S", text, re.MULTILINE))
    assert set(dependencies()) - explained == set()
    assert len(dependencies()) > 5


def test_every_method_on_the_way_of_a_read_and_a_write_exists() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "b2fs").rglob("*.py"))
    named = set(_METHOD.findall((ROOT / "docs" / "architecture.md").read_text()))
    assert len(named) > 15
    classes, functions = (set(re.findall(rf"^ *{word} (\w+)", source, re.M)) for word in ("class", "(?:async )?def"))
    fields = set(re.findall(r"^    (\w+):", source, re.M))
    assert {(owner, name) for owner, name in named if owner not in classes or name not in functions | fields} == set()


def test_what_does_not_exist_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("async def test_there() -> None: ...\n")
    text = "`tests/test_a.py::test_there` `tests/test_a.py::test_gone` `tests/test_b.py::test_there`"
    assert missing_tests(text) == ["tests/test_a.py::test_gone", "tests/test_b.py::test_there"]
    document = tmp_path / "a.md"
    document.write_text(
        "# A *b*\n[](a.md) [](#a-b) [](b.md) [](#gone) [](../a.md) `[](code)` [](https://example.com)\n"
    )
    assert broken_links(document) == ["b.md", "#gone", "../a.md"]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_of_a_mount_is_documented(option: Option) -> None:
    words = option.flag if option.is_flag else f"{option.flag} {option.metavar}"
    rows = [line for line in OPTIONS_TEXT.read_text().splitlines() if line.startswith("| ")]
    assert any(f"`{words}`" in row.replace("\\|", "|") for row in rows), f"{words} is not in {name(OPTIONS_TEXT)}"


def test_options_that_are_documented_exist() -> None:
    flags = {word for option in OPTIONS for word in (option.flag, option.opposite) if word}
    assert set(re.findall(r"`(--[a-z-]+)", OPTIONS_TEXT.read_text())) == flags


def test_variables_that_are_no_option_are_documented() -> None:
    for text in (OPTIONS_TEXT, ROOT / "README.md"):
        assert RUNTIME_VARIABLE in text.read_text()
