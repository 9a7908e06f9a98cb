"""Reports as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graft.doctor import Finding
from graft.report import Report
from graft.ui import Screen


def show_report(screen: Screen, verb: str, report: Report) -> None:
    """One upstream: a headline, what stands out, and what to do about it."""
    if verb == "diff":
        _show_diff(screen, report)
        return
    proof = f"tree {report.tree[:10]} proven" if report.tree_proven else "tree not proven"
    screen.say(f"{screen.paint(report.name, 'bold')}  {screen.state(report.state)}  {report.commit[:10]}, {proof}")
    if report.source:
        screen.say(f"  from      {report.source}")
    for name, pack in sorted(report.packs.items()):
        screen.say(f"  pack      {name}{_pack_words(screen, pack)}")
    if report.changed_lines or report.overlay_files:
        screen.say(f"  graft     {report.changed_lines} changed lines upstream, {report.overlay_files} overlay files")
    if verb in ("apply", "revert", "adopt", "check") and not report.errors and report.source:
        words = {"check": "would write", "adopt": "wrote back"}.get(verb, "wrote")
        files = report.adopted if verb == "adopt" else report.wrote
        screen.say(f"  {words:9} {_listed(files)}")
    _edits(screen, verb, report)
    for path in report.edited_by_user:
        screen.say(f"  yours     {path}")
    for note in report.notes:
        screen.say(f"  note      {note}")
    for line in report.tried:
        screen.say(f"  tried     {_in_short(line) if report.source else line}")
    for warning in report.warnings:
        screen.say(f"  {screen.paint('warning', 'warn')}   {warning}")
    for error in report.errors:
        text = str(error).replace("\n", "\n            ")
        screen.say(f"  {screen.paint('error', 'bad')}     {text}")


def _show_diff(screen: Screen, report: Report) -> None:
    """The patch alone on standard output; whatever else there is to say stands beside it."""
    screen.diff(report.diff)
    if not report.diff and not report.errors:
        screen.aside(f"{report.name}: nothing to show, it is {report.state}")
    for text in (*report.notes, *report.warnings, *(f"error: {error}" for error in report.errors)):
        screen.aside(f"{report.name}: {text}")


def _in_short(attempt: str) -> str:
    """An attempt after which another source served: git's own words about it (in ``--json``) no longer help."""
    source, _, why = attempt.partition(": ")
    return f"{source}: git could not fetch from it" if why.startswith("`git ") else attempt


def _listed(files: Sequence[str], most: int = 4) -> str:
    if len(files) <= most:
        return ", ".join(files) or "nothing"
    return f"{len(files)} files: {', '.join(files[: most - 1])}, ... (--json lists all)"


def _pack_words(screen: Screen, pack: dict[str, Any]) -> str:
    words = f"  {screen.state(pack['state'])}" if "state" in pack else ""
    return words + (f"  {pack['why']}" if pack.get("why") else "")


def _edits(screen: Screen, verb: str, report: Report) -> None:
    """Edits that did not simply land: moved, found already there, lost."""
    for name, pack in sorted(report.packs.items()):
        for edit in pack.get("edits", []):
            at = f"{edit['path']} {edit['definition'] or ''}".rstrip()
            if edit.get("moved_from"):
                screen.say(f"  moved     {name}: {edit['moved_from']} -> {at}")
            if verb != "status" and edit["state"] == "already applied":
                screen.say(f"  there     {name}: {at} has {edit['adds']!r} already")
            if verb == "status" and edit["state"] != "already applied":
                screen.say(f"  {screen.paint('missing', 'bad')}   {name}: {at}: {edit['adds']!r}")


def show_doctor(screen: Screen, name: str, findings: Sequence[Finding]) -> None:
    screen.say(screen.paint(name, "bold"))
    for finding in findings:
        kind = {"error": "bad", "warning": "warn"}.get(finding.level, "dim")
        screen.say(f"  {screen.paint(finding.level.ljust(8), kind)} {finding.what}")
        if finding.remedy:
            screen.say(f"           -> {finding.remedy}")
