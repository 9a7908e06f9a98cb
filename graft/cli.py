"""``python apply.py [verb] [upstream ...]``: the arguments, the order of things, the exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from graft import actions, doctor, views
from graft.actions import Options, Project
from graft.errors import BadInput, Exit, GraftError, Several
from graft.lock import Upstream
from graft.report import Report
from graft.show import show_doctor, show_report
from graft.ui import Screen

_ABOUT = """\
Grafts the packs in patches/ and the modules in overlays/ onto the pinned upstreams.

  python apply.py                     fetch what is missing, apply every pack to every upstream
  python apply.py LLaMA-Factory       the same for one upstream
  python apply.py status              what is applied where, and what you edited yourself
  python apply.py diff LLaMA-Factory  the method as a diff
  python apply.py revert              take everything out again; your own edits stay
"""

_EXITS = """\
exit codes: 0 done; 1 an edit was lost, ambiguous or collides with yours (nothing was written in that checkout);
2 bad input (lock, pack, overlay, argument); 3 an upstream cannot be reached, the others were done;
4 check found that a checkout is not what the packs would write.
"""

_VERBS: dict[str, tuple[Callable[[Project, Upstream, Options], Report], str]] = {
    "apply": (actions.apply, "fetch what is missing and apply the packs (the default)"),
    "status": (views.status, "what is applied, proven and edited; writes nothing"),
    "check": (views.check, "what apply would write, without writing; exit 4 on drift"),
    "diff": (views.diff, "the method as a diff against the upstream, without your own edits"),
    "revert": (actions.revert, "take packs out again; your own edits stay"),
    "adopt": (actions.adopt, "bring edits to overlay files in a checkout back to overlays/"),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="apply.py", description=_ABOUT, epilog=_EXITS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (_, text) in _VERBS.items():
        verb = _add(verbs, name, text)
        verb.add_argument("--pack", action="append", default=[], metavar="PACK", help="this pack only; may be repeated")
        if name in ("apply", "check"):
            verb.add_argument("--link", action="store_true", help="link overlay files instead of copying them")
        if name == "apply":
            verb.add_argument("--mirror", type=Path, metavar="DIR", help="a folder of clones to fetch from first")
            verb.add_argument("--offline", action="store_true", help="use what is on this machine only")
    environment = _add(verbs, "doctor", "what each upstream's environment lacks, and the command that mends it")
    environment.add_argument("--python", type=Path, metavar="FILE", help="the interpreter to look at")
    completion = verbs.add_parser(
        "completion", help="print completion for a shell: source <(./apply.py completion bash)"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return top


def _add(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXITS)
    verb.add_argument(
        "upstreams", nargs="*", metavar="UPSTREAM", help="names as in upstream.lock; all if none is given"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return verb


def with_verb(arguments: Sequence[str]) -> list[str]:
    """``apply`` in front where no verb is given, so that ``python apply.py openvla`` is enough."""
    given = list(arguments)
    first = next((word for word in given if not word.startswith("-")), None)
    if first in (*_VERBS, "doctor", "completion") or {"-h", "--help"} & set(given):
        return given
    return ["apply", *given]


def main(root: Path, arguments: Sequence[str]) -> int:
    """Runs one command in the project at ``root`` and returns its exit code; no traceback reaches a user."""
    options = parser().parse_args(with_verb(arguments))
    if options.verb == "completion":
        import shtab

        print(shtab.complete(parser(), shell=options.shell))
        return Exit.OK
    screen = Screen(quiet=options.json)
    try:
        return _run(root, options, screen)
    except GraftError as error:
        screen.settle()
        if options.json:
            errors = error.errors if isinstance(error, Several) else (error,)
            print(json.dumps({"ok": False, "errors": [one.as_dict() for one in errors]}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        screen.settle()
        print("interrupted; nothing is half-written, run again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) went away; what it did not read is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _run(root: Path, options: argparse.Namespace, screen: Screen) -> int:
    project = Project.open(root)
    upstreams = project.lock.select(options.upstreams)
    if options.verb == "doctor":
        return _doctor(project, upstreams, options, screen)
    chosen = Options(
        packs=options.pack,
        mirror=getattr(options, "mirror", None),
        offline=getattr(options, "offline", False),
        link=getattr(options, "link", False),
        progress=screen.progress,
    )
    act = _VERBS[options.verb][0]
    holders = [upstream for upstream in upstreams if not chosen.packs or set(chosen.packs) & _packs(upstream, options)]
    if chosen.packs and not holders:
        known = sorted({name for upstream in upstreams for name in upstream.packs})
        raise BadInput(
            f"no pack is called {chosen.packs[0]!r}", where="--pack", remedy=f"name one of: {', '.join(known)}"
        )
    reports = []
    for upstream in holders:
        own = Options(**{**vars(chosen), "packs": [name for name in chosen.packs if name in _packs(upstream, options)]})
        screen.progress(f"{upstream.name}: {options.verb}")
        reports.append(act(project, upstream, own))
    screen.settle()
    code = _exit_code(options.verb, reports)
    if options.json:
        total = sum(report.changed_lines for report in reports)
        data = {report.name: report.as_dict() for report in reports}
        print(
            json.dumps({"ok": code == 0, "verb": options.verb, "changed_lines": total, "upstreams": data}, default=str)
        )
    else:
        for report in reports:
            show_report(screen, options.verb, report)
    return code


def _packs(upstream: Upstream, options: argparse.Namespace) -> set[str]:
    """The packs that may be named; revert and diff also take ones that the lock has dropped."""
    return {*upstream.packs, *(options.pack if options.verb in ("revert", "diff") else ())}


def _exit_code(verb: str, reports: Sequence[Report]) -> int:
    errors = [error for report in reports for error in report.errors]
    if verb == "check":
        if any(error.exit_code is Exit.USAGE for error in errors):
            return Exit.USAGE
        return Exit.DRIFT if errors or any(report.state == "drifted" for report in reports) else Exit.OK
    if errors:
        return min(error.exit_code for error in errors)
    return Exit.OK


def _doctor(project: Project, upstreams: Sequence[Upstream], options: argparse.Namespace, screen: Screen) -> int:
    found = {upstream.name: doctor.diagnose(upstream, project.root, python=options.python) for upstream in upstreams}
    if options.json:
        print(
            json.dumps({name: [vars(finding) for finding in findings] for name, findings in found.items()}, default=str)
        )
    else:
        for name, findings in found.items():
            show_doctor(screen, name, findings)
    return (
        Exit.FAILED if any(finding.level == "error" for findings in found.values() for finding in findings) else Exit.OK
    )
