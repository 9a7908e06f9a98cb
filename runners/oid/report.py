"""The report over all epochs of a probe: one HTML file that loads nothing, and each of its pictures as a file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from look.markup import document, folded, notes, paragraph, table, values
from look.words import ENGLISH, Words
from runners.digests import write_whole
from runners.oid.charts import CSS, short
from runners.oid.decomposition import SUMS
from runners.oid.estimate import SINGULAR, Result
from runners.oid.experts import pairs_of, short_names
from runners.oid.outcome import Analysis
from runners.oid.target import Pictures, about


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Writes each of `files` whole; pictures of an earlier analysis that are not among them are deleted."""
    for name, text in files.items():
        write_whole(folder / name, text)
    # They may be of other experts, and must not stand beside these.
    for old in (path for stem in ("epoch_", "course_", "target") for path in folder.glob(f"{stem}*.svg")):
        if old.name not in files:
            old.unlink()


def report_files(analysis: Analysis, words: Words = ENGLISH) -> dict[str, str]:
    """report.html and the pictures beside it, by name."""
    pictures = Pictures()
    body = [_head(analysis, words)]
    for number, target in enumerate(analysis.targets):
        stem = f"target{number}_" if len(analysis.targets) > 1 else ""
        body.append(about(analysis, target, stem, pictures, words))
    body.append(_tables(analysis, words))
    style = CSS.read_text(encoding="utf-8")
    return {
        **pictures.files,
        "report.html": document(f"Omega-ID: {analysis.probe}", "".join(body), style, words.lang),
    }


def _remarks(analysis: Analysis, words: Words) -> str:
    def pair(result: Result) -> dict[str, object]:
        return {"epoch": result.epoch, "first": result.first, "second": result.second}

    refused = [
        words("epoch {epoch}, {first} and {second}: {problem}", **pair(r), problem=words.of(r.problem))
        for r in analysis.results
        if r.problem
    ]
    small = "epoch {epoch}, {first} and {second}: smallest eigenvalue of the correlations {eigenvalue:.1e}"
    singular = [words(small, **pair(r), eigenvalue=r.eigenvalue) for r in analysis.results if r.singular]
    large = words(
        "Singular: below {limit:g}, atoms may be large and cancel, they are not to be trusted", limit=SINGULAR
    )
    return (
        notes(words("Skipped files"), analysis.skipped, "bad")
        + notes(words("Not computed"), refused, "warn")
        + notes(large, singular, "warn")
        + notes(words("To know"), [words.of(line) for line in analysis.remarks], "warn")
    )


def _head(analysis: Analysis, words: Words) -> str:
    settings = analysis.settings
    _, pattern = short_names(analysis.experts)
    what = words(
        """Integrated information decomposition (omegaid) of {pairs} pairs of experts about {targets} target(s), in
        {epochs} epoch(s), on <code>{datasets}</code>. Experts are named by what fills <code>{pattern}</code>.""",
        pairs=len(pairs_of(analysis.experts)),
        targets=len(analysis.targets),
        epochs=len(analysis.epochs),
        datasets=escape(", ".join(analysis.datasets)),
        pattern=escape(pattern),
    )
    how = words(
        """<b>How to read it.</b> A target's principal components are dealt to two halves. An atom says how i and j hold
        a piece of information, and how the halves do. Its four sums over the halves, <b>Red</b>, <b>Un_i</b>,
        <b>Un_j</b> and <b>Syn</b>, say what i and j hold about the whole target, however it is parted. {redundancy} is
        the redundancy; values are in <b>{unit}</b>. From each the mean of {surrogates} surrogates is subtracted, in
        which whole samples' targets are shuffled; ± and bands are 95 % intervals (half-sampling, components found anew
        in each half), z is in deviations of the surrogates. Values whose interval leaves out 0 are bold; surrogates of
        an atom are no normal distribution, so that z = 2 is no test at 5 %. A dashed frame marks a singular
        covariance.""",
        redundancy=escape(settings.redundancy),
        unit=words(analysis.unit),
        surrogates=settings.surrogates,
    )
    title = words("What pairs of experts tell: {probe}", probe=escape(analysis.probe))
    return f"<h1>{title}</h1>{paragraph(what)}{_remarks(analysis, words)}{paragraph(how)}"


def _tables(analysis: Analysis, words: Words) -> str:
    names, _ = short_names(analysis.experts)
    chosen = [
        (escape(names.get(path, words("not among the chosen"))), f"<code>{escape(path)}</code>", str(count))
        for path, count in sorted(analysis.counts.items(), key=lambda each: -each[1])
    ]
    rows = [_row(result, names, words) for result in analysis.results]
    head = ["epoch", "i", "j", "target", "common rows", "used", "samples", "rank"]
    head += ["variance kept of i", "of j", "of the target"]
    titles = [name if name in "ij" else words(name) for name in head]
    titles += [f"{name}, {words(analysis.unit)}" for name in SUMS]
    experts = table([words(name) for name in ("name", "module", "activations")], chosen)
    return (
        f"<h2>{words('Experts')}</h2>"
        f"{paragraph(words('Activations over all epochs; the most active are analysed.'))}{experts}"
        f"<h2>{words('Samples, variance and sums')}</h2>"
        f"{paragraph(words('All atoms are in <code>atoms.csv</code>.'))}"
        f"{folded(words('{count} rows', count=len(rows)), table(titles, rows))}"
        f"<h2>{words('Made with')}</h2>{values((words('setting'), words('value')), analysis.made_with)}"
    )


def _row(result: Result, names: Mapping[str, str], words: Words) -> list[str]:
    explained = [f"{share:.0%}" for share in result.explained] if result.values else ["", "", ""]
    found = [
        f"{short(v.value)} [{short(v.low)}, {short(v.high)}], z {words('none') if v.z is None else f'{v.z:.1f}'}"
        for v in (result.values[name] for name in SUMS if result.values)
    ]
    return [
        *(str(result.epoch), escape(names[result.first]), escape(names[result.second])),
        *(f"<code>{escape(result.target)}</code>", f"{result.found} ({escape(words.of(result.basis))})"),
        *(str(result.rows), str(result.sequences), str(result.rank), *explained),
        *(found or [escape(words.of(result.problem)), "", "", ""]),
    ]
