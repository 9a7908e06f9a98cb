"""The part of the report that is about one target: courses, maps of all pairs, the 16 atoms of each pair."""

from __future__ import annotations

from html import escape

from look.markup import folded, panel, paragraph, wide
from look.words import Words
from runners.oid.charts import SOURCES, atom_map, course, expert_map, limit_of, scale, standalone
from runners.oid.decomposition import ATOMS, SUMS
from runners.oid.experts import pairs_of, short_names
from runners.oid.outcome import Analysis

HALVES = {"r": "both halves", "x": "half 1", "y": "half 2", "s": "halves jointly"}


class Pictures:
    """Draws charts once: into the page, and into `files` beside it."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def __call__(self, name: str, title: str, svg: str, legend: str = "") -> str:
        if svg.startswith("<svg"):
            self.files[f"{name}.svg"] = standalone(svg, legend)
        return panel(title, svg, 4)


def about(analysis: Analysis, target: str, stem: str, pictures: Pictures, words: Words) -> str:
    unit = words(analysis.unit)
    sums, atoms = limit_of(analysis.results, ["Red", "Syn"]), limit_of(analysis.results, ATOMS)
    *earlier, last = _maps(analysis, target, stem, pictures, sums, words)
    before = ""
    if earlier:
        numbers = words.joined([str(epoch) for epoch in analysis.epochs[:-1]])
        before = folded(words("Before: epochs {numbers}", numbers=numbers), wide(earlier, "maps"))
    lattices = _lattices(analysis, target, stem, pictures, atoms, words)
    courses, details = _courses(analysis, target, stem, pictures, words)
    letters = ", ".join(f"{letter}: {words(word)}" for letter, word in HALVES.items())
    named = words(
        """Atoms are named by source and target: r redundant, x only i, y only j, s synergistic; in the target
        {letters}.""",
        letters=letters,
    )
    return (
        f"<h2>{words('About {target}', target=f'<code>{escape(target)}</code>')}</h2>"
        f"<h3>{words('Course over epochs')}</h3>{wide(courses)}{paragraph(named)}{''.join(details)}"
        f"<h3>{words('Synergy and redundancy of all pairs')}</h3>{scale(sums, unit, words=words)}"
        f"{wide([last], 'maps')}{before}"
        f"<h3>{words('Atoms of each pair')}</h3>{scale(atoms, unit, words=words)}{''.join(lattices)}"
    )


def _maps(analysis: Analysis, target: str, stem: str, pictures: Pictures, limit: float, words: Words) -> list[str]:
    """Synergy and redundancy of all pairs, epoch by epoch."""
    names, unit = short_names(analysis.experts)[0], words(analysis.unit)
    legend, maps = scale(limit, unit, 220, words), []
    for epoch in analysis.epochs:
        shown = ""
        for name in ("Syn", "Red"):
            title = words("{name}, epoch {epoch} ({unit})", name=name, epoch=epoch, unit=unit)
            drawn = expert_map(analysis.of(target, epoch), name, names, limit, title, words)
            shown += pictures(f"{stem}epoch_{epoch}_{name.lower()}", title, drawn, legend)
        maps.append(shown)
    return maps


def _lattices(analysis: Analysis, target: str, stem: str, pictures: Pictures, limit: float, words: Words) -> list[str]:
    """The 16 atoms of each pair, epoch by epoch; the last one is open."""
    names, unit = short_names(analysis.experts)[0], words(analysis.unit)
    legend, lattices = scale(limit, unit, 220, words), []
    for epoch in analysis.epochs:
        shown = []
        for result in analysis.of(target, epoch):
            first, second = names[result.first], names[result.second]
            title = words("{name}, epoch {epoch} ({unit})", name=f"i = {first}, j = {second}", epoch=epoch, unit=unit)
            file = f"{stem}epoch_{epoch}_atoms_{first}_{second}"
            shown.append(pictures(file, title, atom_map(result, limit, title, words), legend))
        summary = words("Epoch {epoch}", epoch=epoch)
        lattices.append(folded(summary, wide(shown, "many"), opened=epoch == analysis.epochs[-1]))
    return lattices


def _courses(
    analysis: Analysis, target: str, stem: str, pictures: Pictures, words: Words
) -> tuple[list[str], list[str]]:
    """Of each pair the course of its sums, and of its 16 atoms."""
    names, unit = short_names(analysis.experts)[0], words(analysis.unit)
    courses, details = [], []
    for pair in pairs_of(analysis.experts):
        results = analysis.of(target, pair=pair)
        first, second = (names[path] for path in pair)
        told, file = f"i = {first}, j = {second}", f"{stem}course_{first}_{second}"
        drawn = course(results, list(SUMS), words("Sums of {pair}", pair=told), unit, words)
        courses.append(pictures(file, told, drawn))
        single = []
        for (name, part), word in zip(SUMS.items(), SOURCES.values(), strict=True):
            title = words("Atoms {atoms} of {pair}", atoms=f"{part}t*", pair=told)
            drawn = course(results, [f"{part}t{t}" for t in HALVES], title, unit, words)
            single.append(pictures(f"{file}_{name.lower()}", f"{name}: {words(word)}", drawn))
        details.append(folded(words("The 16 atoms of {pair}", pair=escape(told)), wide(single)))
    return courses, details
