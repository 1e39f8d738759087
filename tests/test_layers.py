"""Who may import whom; the rooms of the house have doors in one direction only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clinvk"

CORE = {"events", "turn", "errors"}
TOOLS = {"transcript", "tokens", "config", "limits", "gate", "procs", "wire"}
MAY_IMPORT = {
    "errors": set(),
    "turn": {"errors"},
    "events": {"errors"},
    "media": {"errors", "turn"},
    "schema": CORE | {"validation"},
    "patterns": set(),
    "validation": {"patterns"},
    "transcript": CORE,
    "tokens": CORE,
    "capabilities": {"errors", "media", "turn"},
    "yamlfile": set(),
    "kinds": set(),
    "config": CORE | {"kinds", "routes", "yamlfile"},
    "environment": {"config"},
    "extras": {"config"},
    "keys": {"config", "environment"},
    "gate": CORE,
    "database": set(),
    "store": {"config", "database"},
    "filestore": {"config", "database", "errors"},
    "upload": {"database", "errors", "filestore"},
    "fetch": {"__init__", "config", "errors", "media", "turn"},
    "limits": CORE | {"tokens"},
    "procs": CORE | {"procs"},
    "wire": CORE | {"wire"},
    "toolbridge": set(),
    "toolserver": CORE | {"procs", "toolbridge"},
    "backends": CORE
    | {"capabilities", "transcript", "tokens", "config", "kinds", "media", "procs", "schema"}
    | {"toolserver", "backends", "extras"}
    # of the one backend that answers itself what others are passed
    | {"wire"},
    "registry": CORE | {"capabilities", "config", "procs", "backends", "routes"},
    "conversations": CORE,
    "routes": set(),
    "routing": CORE | {"conversations", "registry", "routes"},
    "telling": CORE | TOOLS - {"wire"} | {"conversations", "routing"},
    "stream": CORE | {"conversations", "routing", "telling"},
    "checks": CORE | {"backends", "procs", "registry"},
    "pump": CORE
    | TOOLS - {"wire"}
    | {"backends", "capabilities", "conversations", "fetch", "registry", "telling"},
    "service": CORE
    | TOOLS - {"wire"}
    | {"backends", "checks", "conversations", "fetch", "pump", "registry", "routing"}
    | {"stream", "telling"},
    "server": CORE
    | TOOLS
    | {"backends", "keys", "registry", "routing", "service", "server", "store", "stream", "telling"}
    | {"extras", "filestore", "media", "upload"},
    "cli": CORE
    | TOOLS
    | {"backends", "environment", "extras", "keys", "registry", "service", "server", "stream"}
    | {"cli"},
    "__init__": set(),
    "__main__": {"cli"},
}
THIRD_PARTY = {
    # backends: as a client alone, of the servers whose API is all the CLI that they have
    "aiohttp": {"server", "fetch", "toolserver", "backends"},
    "click": {"cli"},
    "prometheus_client": {"server"},
    "rich": {"cli"},
    "subprocess": {"procs"},
    "pydantic": {
        "config",
        "kinds",
        "routes",
        "environment",
        "yamlfile",
        "wire",
        "backends",
        "server",
    },
    "sqlite3": {"database", "store", "filestore"},
    "bpe_openai": {"tokens"},
    "numpy": {"backends"},
    "safetensors": {"backends"},
    "tokenizers": {"backends"},
    "jsonschema": {"validation"},
    "referencing": {"validation"},
    "yaml": {"config", "yamlfile", "cli"},
    "platformdirs": {"config", "backends", "cli", "database"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file; `from clinvk import x` gives clinvk.x."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            names |= {f"{module}.{a.name}" for a in node.names} if module == "clinvk" else {module}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[room(path)]
    for name in imports(path):
        if name.startswith("clinvk."):
            target = name.split(".")[1]
            assert target in allowed or target == "__version__", f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path):
        rooms = THIRD_PARTY.get(name.split(".")[0])
        assert rooms is None or room(path) in rooms, f"{path} imports {name}"


def test_only_two_files_spawn() -> None:
    spawning = {"open_process", "create_subprocess_exec", "create_subprocess_shell", "Popen"}
    spawning |= {"run_process", "spawnv", "posix_spawn", "execv", "fork"}
    found = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
        and (
            (node.attr if isinstance(node, ast.Attribute) else node.id) in spawning
            or ast.unparse(node) == "os.system"
        )
    }
    assert found == {"procs/process.py", "procs/guard.py"}


INSTALLED = {"node_modules", ".venv"}


def test_no_file_is_over_400_lines() -> None:
    long = [
        str(path.relative_to(ROOT))
        for folder in ("clinvk", "tests", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if not INSTALLED & set(path.parts) and len(path.read_text().splitlines()) > 400
    ]
    assert long == []
