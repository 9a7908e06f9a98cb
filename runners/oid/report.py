"""The report over all epochs of a probe: one HTML file that loads nothing, and each of its pictures as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from runners.digests import write_whole
from runners.markup import document, table
from runners.oid.charts import CSS, SOURCES, atom_map, course, expert_map, limit_of, scale, short, standalone
from runners.oid.decomposition import ATOMS, SUMS, UNITS
from runners.oid.estimate import SINGULAR, Result, Settings
from runners.oid.experts import Pair, pairs_of, short_names
from runners.openvla_report import notes

HALVES = {"r": "both halves", "x": "half 1", "y": "half 2", "s": "halves jointly"}


@dataclass(frozen=True)
class Analysis:
    """All that is known of one probe; `results` by epoch, target and pair."""

    probe: str
    datasets: Sequence[str]
    counts: Mapping[str, int]
    """Activations of every source over all epochs."""
    experts: Sequence[str]
    targets: Sequence[str]
    results: Sequence[Result]
    settings: Settings
    skipped: Sequence[str] = ()
    remarks: Sequence[str] = ()
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> list[int]:
        return sorted({result.epoch for result in self.results})

    @property
    def unit(self) -> str:
        return UNITS[self.settings.kind]

    def of(self, target: str, epoch: int | None = None, pair: Pair | None = None) -> list[Result]:
        return [
            result
            for result in self.results
            if result.target == target
            and epoch in (None, result.epoch)
            and pair in (None, (result.first, result.second))
        ]


class Pictures:
    """Draws charts once: into the page, and into `files` beside it."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def __call__(self, name: str, title: str, svg: str, legend: str = "") -> str:
        if svg.startswith("<svg"):
            self.files[f"{name}.svg"] = standalone(svg, legend)
        return f"<div><h4>{escape(title)}</h4>{svg}</div>"


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Writes each of `files` whole; pictures of an earlier analysis that are not among them are deleted."""
    for name, text in files.items():
        write_whole(folder / name, text)
    # They may be of other experts, and must not stand beside these.
    for old in (path for stem in ("epoch_", "course_", "target") for path in folder.glob(f"{stem}*.svg")):
        if old.name not in files:
            old.unlink()


def report_files(analysis: Analysis) -> dict[str, str]:
    """report.html and the pictures beside it, by name."""
    pictures = Pictures()
    body = [_head(analysis)]
    for number, target in enumerate(analysis.targets):
        stem = f"target{number}_" if len(analysis.targets) > 1 else ""
        body.append(_target(analysis, target, stem, pictures))
    body.append(_tables(analysis))
    style = CSS.read_text(encoding="utf-8")
    return {**pictures.files, "report.html": document(f"Omega-ID: {analysis.probe}", "".join(body), style)}


def _names(analysis: Analysis) -> tuple[dict[str, str], str]:
    return short_names(analysis.experts)


def _head(analysis: Analysis) -> str:
    settings = analysis.settings
    _, pattern = _names(analysis)
    refused = [f"epoch {r.epoch}, {r.first} and {r.second}: {r.problem}" for r in analysis.results if r.problem]
    singular = [
        f"epoch {r.epoch}, {r.first} and {r.second}: smallest eigenvalue of the correlations {r.eigenvalue:.1e}"
        for r in analysis.results
        if r.singular
    ]
    return f"""<h1>What pairs of experts tell: {escape(analysis.probe)}</h1>
<p>Integrated information decomposition (omegaid) of {len(pairs_of(analysis.experts))} pairs of experts about
{len(analysis.targets)} target(s), in {len(analysis.epochs)} epoch(s), on
<code>{escape(", ".join(analysis.datasets))}</code>. Experts are named by what fills
<code>{escape(pattern)}</code>.</p>
{notes("Skipped files", analysis.skipped, "bad")}
{notes("Not computed", refused, "warn")}
{notes(f"Singular: below {SINGULAR:g}, atoms may be large and cancel, they are not to be trusted", singular, "warn")}
{notes("To know", analysis.remarks, "warn")}
<p><b>How to read it.</b> A target's principal components are dealt to two halves. An atom says how i and j hold a piece
of information, and how the halves do. Its four sums over the halves, <b>Red</b>, <b>Un_i</b>, <b>Un_j</b> and
<b>Syn</b>, say what i and j hold about the whole target, however it is parted. {escape(settings.redundancy)} is the
redundancy; values are in <b>{analysis.unit}</b>. From each the mean of {settings.surrogates} surrogates is subtracted,
in which whole samples' targets are shuffled; ± and bands are 95 % intervals (half-sampling, components found anew in
each half), z is in deviations of the surrogates. Values whose interval leaves out 0 are bold; surrogates of an atom are
no normal distribution, so that z = 2 is no test at 5 %. A dashed frame marks a singular covariance.</p>"""


def _target(analysis: Analysis, target: str, stem: str, pictures: Pictures) -> str:
    names, _ = _names(analysis)
    unit = analysis.unit
    sums, atoms = limit_of(analysis.results, ["Red", "Syn"]), limit_of(analysis.results, ATOMS)
    legends = [scale(limit, unit, 220) for limit in (sums, atoms)]
    maps, lattices, courses, details = {}, [], [], []
    for epoch in analysis.epochs:
        results = analysis.of(target, epoch)
        maps[epoch] = ""
        for name in ("Syn", "Red"):
            title = f"{name}, epoch {epoch} ({unit})"
            drawn = expert_map(results, name, names, sums, title)
            maps[epoch] += pictures(f"{stem}epoch_{epoch}_{name.lower()}", title, drawn, legends[0])
        shown = []
        for result in results:
            first, second = names[result.first], names[result.second]
            title = f"i = {first}, j = {second}, epoch {epoch} ({unit})"
            file = f"{stem}epoch_{epoch}_atoms_{first}_{second}"
            shown.append(pictures(file, title, atom_map(result, atoms, title), legends[1]))
        opened = " open" if epoch == analysis.epochs[-1] else ""
        lattices.append(
            f'<details{opened}><summary>Epoch {epoch}</summary><div class="many">{"".join(shown)}</div></details>'
        )
    for pair in pairs_of(analysis.experts):
        results = analysis.of(target, pair=pair)
        first, second = (names[path] for path in pair)
        words, file = f"i = {first}, j = {second}", f"{stem}course_{first}_{second}"
        drawn = course(results, {name: name for name in SUMS}, f"Sums of {words}", unit)
        courses.append(pictures(file, words, drawn))
        single = [
            pictures(
                f"{file}_{name.lower()}",
                f"{name}: {word}",
                course(results, {f"{part}t{t}": f"{part}t{t}" for t in HALVES}, f"Atoms {part}t* of {words}", unit),
            )
            for (name, part), word in zip(SUMS.items(), SOURCES.values(), strict=True)
        ]
        summary = f"<summary>The 16 atoms of {escape(words)}</summary>"
        details.append(f'<details>{summary}<div class="wide">{"".join(single)}</div></details>')
    *earlier, last = maps.values()
    before = ""
    if earlier:
        words = f"Before: epochs {', '.join(map(str, analysis.epochs[:-1]))}"
        before = f'<details><summary>{words}</summary><div class="maps">{"".join(earlier)}</div></details>'
    letters = ", ".join(f"{letter}: {word}" for letter, word in HALVES.items())
    return f"""<h2>About <code>{escape(target)}</code></h2>
<h3>Course over epochs</h3><div class="wide">{"".join(courses)}</div>
<p>Atoms are named by source and target: r redundant, x only i, y only j, s synergistic; in the target {letters}.</p>
{"".join(details)}
<h3>Synergy and redundancy of all pairs</h3>{scale(sums, unit)}<div class="maps">{last}</div>{before}
<h3>Atoms of each pair</h3>{scale(atoms, unit)}{"".join(lattices)}"""


def _tables(analysis: Analysis) -> str:
    names, _ = _names(analysis)
    chosen = [
        (escape(names.get(path, "not among the chosen")), f"<code>{escape(path)}</code>", str(count))
        for path, count in sorted(analysis.counts.items(), key=lambda each: -each[1])
    ]
    rows = []
    for result in analysis.results:
        explained = [f"{share:.0%}" for share in result.explained] if result.values else ["", "", ""]
        found = [
            f"{short(v.value)} [{short(v.low)}, {short(v.high)}], z {'none' if v.z is None else f'{v.z:.1f}'}"
            for v in (result.values[name] for name in SUMS if result.values)
        ]
        rows.append(
            [
                *(str(result.epoch), escape(names[result.first]), escape(names[result.second])),
                *(
                    f"<code>{escape(result.target)}</code>",
                    f"{result.found} ({escape(result.basis)})",
                    str(result.rows),
                ),
                *(str(result.sequences), str(result.rank), *explained),
                *(found or [escape(result.problem), "", "", ""]),
            ]
        )
    head = ["epoch", "i", "j", "target", "common rows", "used", "samples", "rank"]
    head += ["variance kept of i", "of j", "of the target", *(f"{name}, {analysis.unit}" for name in SUMS)]
    made = [(escape(key), f"<code>{escape(value)}</code>") for key, value in analysis.made_with.items()]
    return f"""<h2>Experts</h2><p>Activations over all epochs; the most active are analysed.</p>
{table(("name", "module", "activations"), chosen)}
<h2>Samples, variance and sums</h2><p>All atoms are in <code>atoms.csv</code>.</p>
<details><summary>{len(rows)} rows</summary>{table(head, rows)}</details>
<h2>Made with</h2>{table(("setting", "value"), made)}"""
