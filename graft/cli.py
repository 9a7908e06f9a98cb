"""``python apply.py [verb] [upstream ...]``: the arguments, the order of things, the exit code."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from graft import actions, adopt, bisect, doctor, survive, views
from graft.actions import Options, Project
from graft.errors import BadInput, Exit, GraftError, Several
from graft.lock import Upstream
from graft.plan import load_packs
from graft.report import Report
from graft.show import show_doctor, show_report
from graft.ui import Screen
from graft.verbs import init_pack, newest, upgrade

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

Verb: TypeAlias = Callable[[Project, Upstream, Options], Report]

_VERBS: dict[str, tuple[Verb, str]] = {
    "apply": (actions.apply, "fetch what is missing and apply the packs (the default)"),
    "status": (views.status, "what is applied, proven and edited; writes nothing"),
    "check": (views.check, "what apply would write, without writing; exit 4 on drift"),
    "diff": (views.diff, "the method as a diff against the upstream, without your own edits"),
    "revert": (actions.revert, "take packs out again; your own edits stay"),
    "adopt": (adopt.adopt, "bring edits to overlay files in a checkout back to overlays/"),
}


_OWN: dict[str, tuple[Callable[..., object], Callable[[Project, argparse.Namespace, Screen], int]]] = {
    "upgrade": (upgrade.add_parser, upgrade.run),
    "newest": (newest.add_parser, newest.run),
    "survive": (survive.add_parser, survive.run),
    "bisect": (bisect.add_parser, bisect.run),
    "init-pack": (init_pack.add_parser, init_pack.run),
}
_ALL_VERBS = (*_VERBS, *_OWN, "doctor", "completion")


def parser(known: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The command line; ``known`` upstreams, where given, are what completion offers."""
    top = argparse.ArgumentParser(
        prog="apply.py", description=_ABOUT, epilog=_EXITS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (_, text) in _VERBS.items():
        verb = _add(verbs, name, text, known)
        verb.add_argument("--pack", action="append", default=[], metavar="PACK", help="this pack only; may be repeated")
        if name in ("apply", "check"):
            how = verb.add_mutually_exclusive_group()
            how.add_argument(
                "--link", action="store_true", default=None, help="link overlay files instead of copying them"
            )
            how.add_argument(
                "--copy", dest="link", action="store_false", help="copy them again (without either: as they are)"
            )
        if name == "apply":
            verb.add_argument("--mirror", type=Path, metavar="DIR", help="a folder of clones to fetch from first")
            verb.add_argument("--offline", action="store_true", help="use what is on this machine only")
        if name == "status":
            verb.add_argument("--reach", action="store_true", help="ask the sources of what is not fetched yet")
    for add_parser, _ in _OWN.values():
        add_parser(verbs)
    environment = _add(verbs, "doctor", "what each upstream's environment lacks, and the command that mends it", known)
    environment.add_argument("--python", type=Path, metavar="FILE", help="the interpreter to look at")
    completion = verbs.add_parser(
        "completion", help="print completion for a shell: source <(./apply.py completion bash)"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return top


def _add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, known: Sequence[str] | None
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXITS)
    verb.add_argument(
        "upstreams",
        nargs="*",
        metavar="UPSTREAM",
        choices=known,
        help="names as in upstream.lock; all if none is given",
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return verb


def with_verb(arguments: Sequence[str]) -> list[str]:
    """The verb in front: ``apply`` where none is given, so that ``python apply.py openvla`` is enough."""
    given = list(arguments)
    first = next((word for word in given if not word.startswith("-")), None)
    if first in _ALL_VERBS:
        given.remove(first)
        return [first, *given]
    if {"-h", "--help"} & set(given):
        return given
    return ["apply", *given]


def main(root: Path, arguments: Sequence[str]) -> int:
    """Runs one command in the project at ``root`` and returns its exit code; no traceback reaches a user."""
    options = parser().parse_args(with_verb(arguments))
    screen = Screen(quiet=getattr(options, "json", False))
    try:
        code = _completion(root, options.shell) if options.verb == "completion" else _run(root, options, screen)
        sys.stdout.flush()  # here, where a reader that went away can still be answered
        return code
    except GraftError as error:
        return _say_error(error, screen)
    except KeyboardInterrupt:
        screen.settle()
        print("interrupted; nothing is half-written, run again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) went away; what it did not read is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        return _say_error(_refused(error), screen)


def _say_error(error: GraftError, screen: Screen) -> int:
    screen.settle()
    errors = error.errors if isinstance(error, Several) else (error,)
    if screen.quiet:
        print(json.dumps({"ok": False, "errors": [one.as_dict() for one in errors]}))
    for one in () if screen.quiet else errors:
        print(f"error: {one}", file=sys.stderr)
    return error.exit_code


def _completion(root: Path, shell: str) -> int:
    import shtab

    print(shtab.complete(parser(Project.open(root).lock.names), shell=shell))
    return Exit.OK


def _select(project: Project, options: argparse.Namespace) -> tuple[Upstream, ...]:
    try:
        return project.lock.select(options.upstreams)
    except BadInput as error:
        meant = difflib.get_close_matches(options.upstreams[0], _ALL_VERBS, n=1)
        if options.verb == "apply" and meant:
            error.remedy = f"python apply.py {meant[0]}, if that verb is meant; else {error.remedy}"
        raise


def _run(root: Path, options: argparse.Namespace, screen: Screen) -> int:
    project = Project.open(root)
    finished = adopt.finish_interrupted(project)
    if finished:  # what was finished may have been the lock's own move
        project = Project.open(root)
    if options.verb in _OWN:
        for line in finished:
            screen.aside(f"note: {line}")
        return _OWN[options.verb][1](project, options, screen)
    upstreams = _select(project, options)
    if options.verb == "doctor":
        return _doctor(project, upstreams, options, screen)
    chosen = Options(
        packs=options.pack,
        mirror=getattr(options, "mirror", None),
        offline=getattr(options, "offline", False),
        link=getattr(options, "link", None),
        reach=getattr(options, "reach", False),
        progress=screen.progress,
    )
    act = _VERBS[options.verb][0]
    packs = _packs_of(project, upstreams, options)
    if options.verb in ("apply", "check"):
        _load_all(project, upstreams, packs)
    reports = []
    for upstream in upstreams:
        if chosen.packs and not packs[upstream.name]:
            continue
        screen.progress(f"{upstream.name}: {options.verb}")
        reports.append(_one(act, project, upstream, replace(chosen, packs=packs[upstream.name])))
    if reports:
        reports[0].notes[:0] = finished
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


def _one(act: Verb, project: Project, upstream: Upstream, options: Options) -> Report:
    try:
        return act(project, upstream, options)
    except BrokenPipeError:
        raise
    except OSError as error:  # the disk's refusals, wherever they come up: the others' turn comes all the same
        report = actions.report_for(upstream)
        report.add_error(_refused(error))
        return actions.settled(report)


def _refused(error: OSError) -> GraftError:
    return GraftError(
        error.strerror or str(error),
        where=str(error.filename or ""),
        remedy="see to the file's permissions and to room on the disk, then run again",
    )


def _packs_of(
    project: Project, upstreams: Sequence[Upstream], options: argparse.Namespace
) -> dict[str, tuple[str, ...]]:
    """The packs named on the command line, by the upstream that has them; apply and check take those of the lock only.

    Raises:
        BadInput: no upstream has one of them.
    """
    if not options.pack:
        return {upstream.name: () for upstream in upstreams}
    only_locked = options.verb in ("apply", "check")
    known = {
        upstream.name: {*upstream.packs, *(() if only_locked else actions.carried(project, upstream))}
        for upstream in upstreams
    }
    everywhere = sorted(set().union(*known.values()))
    for name in options.pack:
        if name not in everywhere:
            near = difflib.get_close_matches(name, everywhere, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            remedy = f"name one of: {', '.join(everywhere)}" if everywhere else "leave it out: there are no packs here"
            raise BadInput(f"no pack is called {name!r}{hint}", where="--pack", remedy=remedy)
    return {upstream: tuple(name for name in options.pack if name in names) for upstream, names in known.items()}


def _load_all(project: Project, upstreams: Sequence[Upstream], packs: Mapping[str, Sequence[str]]) -> None:
    """Reads every pack and overlay that is asked for, so that a bad one is said before anything is fetched or written.

    Raises:
        BadInput, Several: one or more do not load.
    """
    errors: list[GraftError] = []
    named = any(packs.values())
    for upstream in upstreams:
        for name in packs[upstream.name] if named else upstream.packs:
            try:
                load_packs(project.root, upstream, [name])
            except GraftError as error:
                errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else Several(errors)


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
    bad = any(finding.level == "error" for findings in found.values() for finding in findings)
    if options.json:
        data = {name: {"findings": [finding.as_dict() for finding in findings]} for name, findings in found.items()}
        print(json.dumps({"ok": not bad, "verb": "doctor", "upstreams": data}))
    else:
        for name, findings in found.items():
            show_doctor(screen, name, findings)
    return Exit.FAILED if bad else Exit.OK
