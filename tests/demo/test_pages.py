"""The demo's report with all its chapters, drawn by a browser in both languages."""

from __future__ import annotations

from pathlib import Path

from demo import infodyn_chapter, openvla_chapter, report, starvla_chapter
from look.words import LANGUAGES, Words
from tests.browser import Browser
from tests.demo import infodyn_facts, openvla_facts, sample_facts, starvla_facts
from tests.pages import check_drawn, needs_chromium


@needs_chromium
def test_a_browser_draws_it_in_both_languages(browser: Browser, tmp_path: Path) -> None:
    pages = {}
    for lang in LANGUAGES:
        words = Words(lang)
        chapters = (
            infodyn_chapter.chapter(infodyn_facts.make(), words),
            openvla_chapter.chapter(openvla_facts.make(real=True), words),
            starvla_chapter.chapter(starvla_facts.make(real=False), words),
        )
        pages[lang] = report.page(sample_facts.make(), "\n".join(chapters), words)
    check_drawn(browser, pages, tmp_path, "demo")
