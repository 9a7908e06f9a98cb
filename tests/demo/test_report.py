"""The demo's report on made-up facts: what it says, that it loads nothing, and that a browser draws it."""

from __future__ import annotations

from typing import Any

import pytest

from demo import parts, report
from tests.demo.sample_facts import DIFF, make
from tests.pages import Reader, check_whole


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return make()


@pytest.fixture(scope="module")
def html(facts: dict[str, Any]) -> str:
    return report.page(facts)


def test_every_element_is_closed_and_nothing_is_loaded(html: str) -> None:
    check_whole(html)


def test_the_diff_is_coloured_escaped_and_counted(html: str) -> None:
    assert '<i class="add">+    attach(model)  # &lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;</i>' in html
    assert '<i class="del">-    return wrap(model)</i>' in html
    assert html.count('<i class="add">') == 3
    assert parts.changed_lines(DIFF) == 4
    assert "index 1111111" not in html


def test_changed_lines_counts_lines_that_look_like_headers() -> None:
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n--- a\n+++ b\n same\n"
    assert parts.changed_lines(diff) == 2
    assert parts.changed_lines("") == 0


def test_every_token_shows_its_type_and_whether_it_is_trained(facts: dict[str, Any], html: str) -> None:
    reader = Reader(html[html.index('<div class="tokens">') :].split("</div>")[0] + "</div>")
    sample = facts["sample"]
    assert [text.replace("\u21b5", "\n") for _, text in reader.spans] == sample["tokens"]
    for (kinds, _), kind, on, off in zip(
        reader.spans, sample["semantic_ids"], sample["labels"], sample["labels_off"], strict=True
    ):
        state = "trained" if on != -100 else "feedback" if off != -100 else "prompt"
        assert kinds == f"type{kind} {state}"
    states = {kinds.split()[1] for kinds, _ in reader.spans}
    assert states == {"trained", "feedback", "prompt"}


def test_every_run_every_upstream_and_every_version_is_named(facts: dict[str, Any], html: str) -> None:
    for name, run in facts["runs"].items():
        assert f"<b>{name}</b>" in html
        assert run["command"] in html
    assert "unreachable" in html
    assert "2.13.0+cpu" in html
    assert html.count('class="chart heat"') == len(facts["biases"]) == 2
