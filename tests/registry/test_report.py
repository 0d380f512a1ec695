"""The report: whole, safe, offline, tolerant, and true to its numbers."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bessemer.registry import facts
from bessemer.registry.progress import smooth, thin
from bessemer.registry.report import build_report
from tests.registry import example
from tests.registry.pages import check_page

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<script>alert(1)</script>\"</title>'&\u202e\x00\ud800 שלום 🙂 https://evil.example/x.png " + "W" * 400


def parts() -> list[Any]:
    return [example.make_plan(), example.make_metrics(), example.make_scorecard(), example.make_lineage()]


def poison(value: Any, *, key: str = "") -> Any:
    """The same shape with hostile text in every name and string (but not in what selects code paths)."""
    if isinstance(value, dict):
        keep = {"plan", "recipe", "base", "sources", "stages", "tasks", "probes", "verdict", "samples", "machine"}
        named = key in {"sources", "slices", "tasks", "probes", "tokens", "data", "files", "source_loss", "mixture"}
        return {(f"{k}{HOSTILE}" if named and k not in keep else k): poison(v, key=str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(v, key=key) for v in value]
    return value + HOSTILE if isinstance(value, str) and key not in {"metric", "event", "role", "format"} else value


def test_page_is_whole_and_self_contained() -> None:
    html = build_report(*parts())
    page = check_page(html)
    order = ["What was learnt", "What was kept", "How it went", "What it was fed", "Samples", "Lineage"]
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert titles[: len(order)] == order
    assert "http://" not in html and "https://" not in html
    for words in ("SHIP", "house-rules@3", "trained-rules", "0.91", "325.1k tokens", "bessemer serve house-rules@3"):
        assert words in page.text
    assert html == build_report(*parts())


def test_every_figure_has_a_caption_and_every_picture_words() -> None:
    html = build_report(*parts())
    figures = re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    assert len(figures) >= 9
    for figure in figures:
        assert "<figcaption" in figure and 'class="chart wide"' in figure and 'class="chart narrow"' in figure
    pictures = [tag for tag in re.findall(r"<svg [^>]*>", html) if 'aria-hidden="true"' not in tag]
    assert len(pictures) >= 2 * len(figures)
    for label in pictures:
        assert 'role="img"' in label
        assert re.search(r'aria-label="[^"]{20,}"', label)
    assert all('scope="col"' in t and "<caption>" in t for t in re.findall(r"<table>.*?</table>", html, re.DOTALL))


def test_hostile_text_is_only_text() -> None:
    html = build_report(*(poison(p) for p in parts()))
    page = check_page(html)
    assert "<script" not in html and "\u202e" not in html and "\x00" not in html
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize(
    "empty", [({}, [], {}, {}), ({"stages": None, "recipe": None}, [{}], {"tasks": None}, {"data": []})]
)
def test_nothing_at_all_still_makes_a_page_that_says_so(empty: tuple[Any, ...]) -> None:
    page = check_page(build_report(*empty))
    for words in ("no task", "no probe", "No training step", "No source", "No sample", "NOT MEASURED"):
        assert words in page.text


def test_any_single_part_may_be_missing() -> None:
    """Every key of every mapping is left out once, down to the bottom."""

    def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
        return [p for k, v in inner for p in ((*at, k), *paths(v, (*at, k)))]

    whole = parts()
    whole[1] = [e for e in whole[1] if e["step"] < 4]
    whole[2]["tasks"] = {k: whole[2]["tasks"][k] for k in ("new-rule", "own-texts")}
    for path in paths(whole):
        if len(path) > 1:
            less = copy.deepcopy(whole)
            holder = less
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
            build_report(*less)
            holder.insert(path[-1], None) if isinstance(holder, list) else holder.update({path[-1]: None})
            build_report(*less)


@pytest.mark.parametrize("word", ["SHIP", "HOLD", "REJECT"])
def test_the_badge_says_the_verdict_and_its_reasons(word: str) -> None:
    plan, metrics, card, lineage = parts()
    card["verdict"] = {"word": word, "reasons": ["forgot topics: +3 %", "a -> b"]}
    html = build_report(plan, metrics, card, lineage)
    badge = re.search(r'<span class="badge">.*?</span>(\w+)</span>', html)
    assert badge and badge[1] == word
    assert "forgot topics: +3 %" in html and "a → b" in html
    assert facts.VERDICT_WORDS[word][1:] in html
    assert ("bessemer serve" in html) == (word == "SHIP")


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in leaves(v, (*at, k))]
    return [at] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_a_changed_number_changes_the_page() -> None:
    """Every number of the scorecard matters, except the ones no reader needs."""
    plan, metrics, card, lineage = parts()
    card["tasks"] = {k: card["tasks"][k] for k in ("trained-rules", "own-texts")}
    before = build_report(plan, metrics, card, lineage)
    for path in leaves(card):
        changed = copy.deepcopy(card)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] += 0.02 if isinstance(holder[path[-1]], float) else 3
        assert build_report(plan, metrics, changed, lineage) != before, path


def test_changed_metrics_plan_and_lineage_change_the_page() -> None:
    before = build_report(*parts())
    for i, change in enumerate([
        lambda p: p["stages"][1]["sources"]["help"].update(share=0.06),
        lambda m: m[-3]["source_loss"].update(rules=9.0),
        None,
        lambda x: x["tokens"]["02-sft"].update(rules=228_601),
    ]):  # fmt: skip
        if change:
            changed = parts()
            change(changed[i])
            assert build_report(*changed) != before


def test_tokens_fed_come_from_the_steps_when_the_release_does_not_say() -> None:
    plan, metrics, card, lineage = parts()
    with_release = build_report(plan, metrics, card, lineage)
    del lineage["tokens"]
    assert build_report(plan, metrics, card, lineage) == with_release


def test_not_learnt_names_what_is_at_chance() -> None:
    tasks = example.make_scorecard()["tasks"]
    found = " ".join(facts.not_learnt("new-rule", tasks["new-rule"]))
    assert "not shown to be better than chance: 0.55" in found and "no sure gain" in found and "capitals" in found
    assert facts.not_learnt("own-texts", tasks["own-texts"]) == []
    worse = {**tasks["own-texts"], "change": {"bits_per_byte": example.ends(0.05, 0.01)}}
    assert "worse than before" in facts.not_learnt("own-texts", worse)[0]


def test_wilson_interval_of_known_cases() -> None:
    got = facts.share_interval(0.5, 100)
    assert (got.low, got.high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    sure = facts.share_interval(1.0, 20)
    assert sure.low == pytest.approx(0.8389, abs=1e-4) and sure.high == 1.0


def test_probe_words_need_the_whole_interval() -> None:
    probe = {"change": {"value": 0.009, "low": 0.008, "high": 0.01}, "limit": 0.0101}
    assert facts.probe_words(probe) == "within the budget"
    assert facts.probe_words({**probe, "limit": 0.0095}).startswith("not decided")
    assert facts.probe_words({**probe, "limit": 0.005}) == "over the budget"


def test_smoothing_keeps_a_straight_line_and_thinning_keeps_the_peaks() -> None:
    straight = [(float(i), 2.0 * i) for i in range(100)]
    assert [y for _, y in smooth(straight)[10:90]] == pytest.approx([y for _, y in straight[10:90]])
    spiky = [(float(i), 9.0 if i == 777 else 1.0) for i in range(5000)]
    thinned = thin(spiky)
    assert len(thinned) <= 400 and max(y for _, y in thinned) == 9.0 and thinned == sorted(thinned)


def test_text_colours_have_contrast_in_light_and_dark() -> None:
    html = build_report({}, [], {}, {})
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    for block in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for name in ("ink", "soft", "mark", "old", "good", "wait", "bad", *(f"c{i}" for i in range(6))):
            assert contrast(colours[name], colours["bg"]) >= 4.5, name
        for name in ("good", "wait", "bad", *(f"c{i}" for i in range(6))):
            assert contrast(colours[name], colours["on"]) >= 4.5, name
        assert contrast(colours["soft"], colours["card"]) >= 4.5


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.full
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
@pytest.mark.parametrize("hostile", [False, True])
def test_no_sideways_scrolling_in_a_browser(tmp_path: Path, hostile: bool) -> None:
    """Widths and the smallest text, measured in frames of a phone's and a desktop's width."""
    html = build_report(*(poison(p) if hostile else p for p in parts()))
    frames = "".join(f'<iframe width="{w}" height="900" style="border:0"></iframe>' for w in (390, 1280))
    script = """onload = () => Promise.all([...document.querySelectorAll('iframe')].map(f => new Promise(done => {
      f.onload = () => { const d = f.contentDocument;
        const shown = [...d.querySelectorAll('svg.chart')].filter(s => s.getBoundingClientRect().width > 0);
        const sizes = shown.map(s => 13 * s.getBoundingClientRect().width / s.viewBox.baseVal.width);
        done([d.documentElement.clientWidth, d.documentElement.scrollWidth, sizes.length, Math.min(...sizes)]) };
      f.srcdoc = page;
    }))).then(all => { document.body.innerHTML = '<pre>RESULT' + JSON.stringify(all) + 'END</pre>' })"""
    page = json.dumps(html).replace("</", "<\\/")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f"<!doctype html><meta charset=utf-8><body>{frames}<script>const page = {page};{script}</script>"
    )
    flags = [
        "--headless",
        "--hide-scrollbars",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--window-size=1400,1000",
        "--virtual-time-budget=8000",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *flags, wrapper.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r"RESULT(.*?)END", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    for wanted, (inside, needed, n_charts, smallest) in zip((390, 1280), json.loads(found[1]), strict=True):
        assert inside == wanted and needed <= inside, (wanted, needed)
        assert n_charts >= 9 and smallest >= 10, (n_charts, smallest)
