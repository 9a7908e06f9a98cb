"""The timeline of ``survive`` as one HTML file: commit by commit, a lane for graft and one for each textual tool."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape

from graft.trials import BROKEN, STANDS, Survival, Trial

# What a cell says, and how: height and pattern tell as much as colour does.
_WORDS = {
    "ok": "applies, every edit where it belongs",
    "off": "applies, but lands elsewhere",
    "no": "does not apply",
    "aside": "set aside: a definition does not exist yet, or no more",
}

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf7;--ink:#1d2326;--soft:#626b70;--line:#dcd9d1;--card:#fff;
--ok:#1f7a52;--off:#c9871b;--no:#b8382e;--aside:#a9b0b3}
@media(prefers-color-scheme:dark){:root{--bg:#14181a;--ink:#e8e9e5;--soft:#98a2a6;--line:#2d3437;--card:#1b2022;
--ok:#47b583;--off:#dba14a;--no:#e2695d;--aside:#566065}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:68rem;margin:0 auto;padding:2rem 1.1rem 3rem}
h1{font-size:1.5rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em}
p{margin:.3rem 0}.soft{color:var(--soft)}
.lane{display:grid;grid-template-columns:9.5rem 1fr 5.5rem;gap:.8rem;align-items:center;margin:.35rem 0}
.name{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.86rem;white-space:nowrap}
.rate{text-align:right;font-variant-numeric:tabular-nums;font-weight:600;line-height:1.15}
.rate small{display:block;font-weight:400;color:var(--soft);font-size:.72rem}
.axis .pin{top:1rem;color:var(--ink)}.axis .pin::before{top:-1.35rem!important;height:2.3rem!important;
border-left:2px solid var(--ink)!important}
.cells,.axis>div{display:flex;height:2.4rem;align-items:flex-end;border-bottom:1px solid var(--line)}
.cells i{flex:1 1 0;min-width:0;height:100%;display:flex;align-items:flex-end;cursor:pointer}
.cells i::before{content:"";width:100%;border-right:1px solid var(--bg)}
.dense .cells i::before{border-right:0}
.ok::before{height:100%;background:var(--ok)}
.off::before{height:55%;background:repeating-linear-gradient(135deg,var(--off) 0 3px,transparent 3px 5px)}
.no::before{height:18%;background:var(--no)}
.aside::before{height:35%;background:var(--aside);opacity:.6}
.cells i.at{outline:2px solid var(--ink);outline-offset:-1px;z-index:1;position:relative}
.axis>div{height:2.2rem;border:0;position:relative}
.axis div span{position:absolute;top:.1rem;font-size:.72rem;color:var(--soft);white-space:nowrap}
.axis div span::before{content:"";position:absolute;left:0;top:-.35rem;height:.35rem;border-left:1px solid var(--line)}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem;margin:1.2rem 0;
min-height:8.4rem}
.card b{overflow-wrap:anywhere}.card ul{list-style:none;margin:.5rem 0 0;padding:0;font-size:.9rem}
.card li{display:flex;gap:.6rem;overflow-wrap:anywhere}.card li span:first-child{flex:0 0 9.2rem}
.card p.why{font-size:.85rem;margin:.6rem 0 0;overflow-wrap:anywhere}
.key{display:flex;flex-wrap:wrap;gap:.4rem 1.3rem;font-size:.84rem;color:var(--soft);margin:.9rem 0 0;padding:0}
.key li{display:flex;gap:.45rem;align-items:center}
.key i{display:inline-flex;width:.8rem;height:1.1rem;align-items:flex-end;border-bottom:1px solid var(--line)}
.key i::before{content:"";width:100%}
details{margin-top:1.4rem}summary{cursor:pointer}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.84rem;width:100%}
th,td{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td:nth-child(-n+2){white-space:nowrap;font-variant-numeric:tabular-nums}code{font-size:.95em}
@media(max-width:640px){main{padding:1.3rem .9rem}.lane{grid-template-columns:1fr auto;gap:.1rem .6rem;margin:.8rem 0}
.lane .cells,.axis>div{grid-column:1/-1;grid-row:2}.rate small{display:inline;margin-left:.4rem}
.axis>div{grid-row:1}.axis .name,.axis .rate{display:none}.card li span:first-child{flex-basis:9.4rem}}
"""

_SCRIPT = """
const card=document.getElementById('card'),lanes=[...document.querySelectorAll('.lane .cells')];let at=-1;
const text=(tag,words,kind)=>{const e=document.createElement(tag);e.textContent=words;e.className=kind||'';return e};
function show(n){if(n<0||n>=DATA.length)return;at=n;const d=DATA[n];
lanes.forEach(l=>{l.querySelector('.at')?.classList.remove('at');l.children[n].classList.add('at')});
const list=document.createElement('ul');
d.lanes.forEach(([name,words])=>{const li=text('li','');
li.append(text('span',name,'name'),text('span',words));list.append(li)});
const head=[text('b',d.subject),text('p',d.id+', '+d.day+', '+(n+1)+' of '+DATA.length,'soft')];
card.replaceChildren(...head,list,...d.why.map(w=>text('p',w,'soft why')))}
lanes.forEach(l=>{['pointerover','click'].forEach(k=>l.addEventListener(k,e=>{
const i=e.target.closest('i');if(i)show([...l.children].indexOf(i))}));
l.addEventListener('touchmove',e=>{const t=e.touches[0];
const i=document.elementFromPoint(t.clientX,t.clientY)?.closest('i');
if(i?.parentNode===l)show([...i.parentNode.children].indexOf(i))},{passive:true})});
addEventListener('keydown',e=>{const s={ArrowLeft:-1,ArrowRight:1}[e.key];if(s){show(at+s);e.preventDefault()}});
show(START);
"""


def page(result: Survival) -> str:
    """A self-contained page: no network, light and dark, readable on a phone and without colours."""
    trials = result.trials
    start = next((n for n, trial in enumerate(trials) if trial.verdict == BROKEN), len(trials) - 1)
    data = json.dumps([_datum(trial, result.tools) for trial in trials]).replace("<", "\\u003c")
    title = escape(f"{result.upstream}, {result.span}: the packs at {len(trials)} commits")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head>
<body{' class="dense"' if len(trials) > 150 else ""}><main>
<h1>{escape(result.upstream)}, {escape(result.span)}</h1>
<p class="soft">{escape(_about(result))}</p>
{"".join(_lanes(result))}
<ul class="key">{_key(result)}</ul>
<div class="card" id="card" aria-live="polite"></div>
{_table(result)}
</main><script>const DATA={data},START={start};{_SCRIPT}</script></body></html>
"""


def _about(result: Survival) -> str:
    pin = f" The textual tools get the diff made at the pin, {result.pin}." if result.pin and result.tools else ""
    aside = f" {len(result.aside)} are set aside, since a definition is in no file of theirs." if result.aside else ""
    return f"{len(result.trials)} upstream commits touch the files that the packs edit.{aside}{pin}"


def _state(trial: Trial, lane: str) -> str:
    if lane == "graft":
        return {STANDS: "ok", BROKEN: "no"}.get(trial.verdict, "aside")
    return "no" if not trial.textual[lane] else "ok" if trial.right[lane] else "off"


def _lanes(result: Survival) -> Iterator[str]:
    judged, applied, right = len(result.judged), result.textual(), result.right()
    for lane in ("graft", *result.tools):
        cells = "".join(
            f'<i class="{_state(trial, lane)}" title="{escape(str(trial.commit), quote=True)}"></i>'
            for trial in result.trials
        )
        if lane == "graft":
            share, note = result.rate, f"of {judged}"
        else:
            share, note = applied[lane], f"{right[lane]:.1%} in place" if lane in applied else ""
        words = "none" if share is None else f"{share:.1%}"
        yield (
            f'<div class="lane"><span class="name">{escape(lane)}</span><div class="cells">{cells}</div>'
            f'<span class="rate">{words}<small>{note}</small></span></div>\n'
        )
    yield f'<div class="lane axis"><span></span><div>{_axis(result)}</div><span></span></div>\n'


def _axis(result: Survival, most: int = 5) -> str:
    """The month at evenly spread commits, and the pin; the distance is in commits, not in days."""
    trials, count = result.trials, len(result.trials)
    marks = [n for n in range(0, count, max(count // most, 1)) if n == 0 or n <= count * 0.9]
    spans = [(100 * n / count, "", f"&nbsp;{trials[n].commit.date[:7]}") for n in marks]
    if result.pin is not None:
        before = sum(trial.commit.moment <= result.pin.moment for trial in trials)
        spans += [(100 * before / count, "pin", "&nbsp;pin")] if 0 < before < count else []
    return "".join(f'<span class="{kind}" style="left:{left:.2f}%">{words}</span>' for left, kind, words in spans)


def _key(result: Survival) -> str:
    used = {_state(trial, lane) for trial in result.trials for lane in ("graft", *result.tools)}
    return "".join(f'<li><i class="{kind}"></i>{words}</li>' for kind, words in _WORDS.items() if kind in used)


def _why(trial: Trial) -> list[str]:
    gone = [f"in no file: {name}" for name in trial.missing]
    return [*gone, *(f"{failure.definition} {failure}".strip() for failure in trial.failures)]


def _datum(trial: Trial, tools: Sequence[str]) -> dict[str, object]:
    return {
        "id": trial.commit.id[:10],
        "day": trial.commit.day,
        "subject": trial.commit.subject,
        "lanes": [[lane, _WORDS[_state(trial, lane)].split(":")[0]] for lane in ("graft", *tools)],
        "why": _why(trial),
    }


def _table(result: Survival) -> str:
    """What is not whole, in words, for whoever has no pointer or no script."""
    odd = [trial for trial in result.trials if trial.verdict != STANDS]
    if not odd:
        return '<p class="soft">At every one of these commits each edit is located once, applied and proven.</p>'
    rows = "".join(
        f"<tr><td>{trial.commit.day}</td><td><code>{trial.commit.id[:10]}</code></td>"
        f"<td>{escape(trial.commit.subject)}<br><span class=soft>{escape(trial.verdict)}: "
        f"{'<br>'.join(escape(line) for line in _why(trial))}</span></td></tr>"
        for trial in odd
    )
    count = f"{len(result.broken)} broken, {len(result.aside)} set aside"
    return f'<details><summary>{count}</summary><div class="wide"><table>{rows}</table></div></details>'
