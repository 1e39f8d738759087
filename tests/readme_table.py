"""The README's table of what is supported, made of the claims: `python -m tests.readme_table`."""

from pathlib import Path

from clinvk.backends import claims
from clinvk.capabilities import TITLES

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- python -m tests.readme_table -->\n\n", "\n<!-- end -->\n"
WORDS = {
    "native": "yes",
    "emulated": "by clinvk",
    "no": "no",
    "reported": "the CLI's",
    "estimated": "clinvk's",
}


def columns() -> dict[str, dict[str, str]]:
    """Return what the table says of each kind of backend, by capability."""
    told = {
        kind: {name: WORDS[word] for name, word in can.told().items()}
        for kind, can in claims.BY_KIND.items()
    }
    for kind, (can, more) in claims.OF_ANY_PROGRAM.items():
        known = {name: WORDS[word] for name, word in can.told().items()}
        told[kind] = known | dict.fromkeys(more, "if it can")
    return told


def table() -> str:
    """Return the rows of every claim, with a column for each kind of backend."""
    told = columns()
    rows = [["", *told, "by clinvk means"], ["---"] * (len(told) + 2)]
    for name, (title, means) in TITLES.items():
        words = [words[name] for words in told.values()]
        rows.append([f"`{name}`: {title}", *words, means])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(text: str) -> str:
    """Return the README with the table as it should be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8")), "utf-8")
