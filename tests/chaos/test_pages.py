"""The report of campaigns: nothing is smoothed away, nothing is fetched, everything is escaped."""

from __future__ import annotations

import datetime
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from chaos.campaign.outcome import CampaignOutcome, FaultOutcome, WorkloadOutcome
from chaos.report import print_summary, write
from chaos.report.page import campaign_page
from chaos.report.rows import fault_rows, load_rows, tiles
from chaos.report.series import envelope, kinds_by_count, span_ns
from chaos.rig.latency import Operation, into_slices

MS = 1_000_000
NOW = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)


def fault(kind: str, begun_ms: int, stall_ms: int, **changes: object) -> FaultOutcome:
    begun_ns = begun_ms * MS
    values: dict[str, object] = {
        "kind": kind, "device": "d0", "begun_ns": begun_ns, "served_ns": begun_ns + stall_ms * MS,
        "stall_ns": stall_ms * MS, "has_landed": True, "evidence": "2 in flight", "recovered": 2,
        "already_done": 0, "wrong": (), "workers_killed": 1, "supervisors_killed": 0,
    }  # fmt: skip
    return FaultOutcome(**{**values, **changes})  # type: ignore[arg-type]


def campaign(name: str = "ringd", seed: int = 7) -> CampaignOutcome:
    operations = [Operation(n * MS, (n + 2) * MS) for n in range(1000, 1500)]
    operations.append(Operation(1200 * MS, 1300 * MS))
    faults = [fault("worker-kill", 1200, 100), fault("worker-kill", 1300, 4)]
    faults.append(fault("both-kill", 1400, 50, has_landed=False))
    return CampaignOutcome(
        name, "load", "host", seed, f"obdsup-chaos run --seed {seed}", begun_ns=1000 * MS,
        ended_ns=1502 * MS, commands=501, faults=faults,
        workloads=[WorkloadOutcome("load", "d0", 501, into_slices(operations))],
    )  # fmt: skip


times = st.tuples(st.integers(0, 10**10), st.integers(0, 10**9))


@given(st.lists(times, min_size=1, max_size=50), st.integers(1, 40))
def test_no_operation_and_no_worst_latency_disappears(
    spans: list[tuple[int, int]], columns: int
) -> None:
    operations = [Operation(begin, begin + length) for begin, length in spans]
    shown = envelope(into_slices(operations), 0, 12 * 10**9, columns)
    assert len(shown.at_s) <= columns
    assert max(shown.worst_ms) == max(length for _, length in spans) / 1e6
    assert shown.at_s == sorted(shown.at_s)


def test_envelope_says_mean_and_worst_of_each_column() -> None:
    slices = into_slices([Operation(0, 1 * MS), Operation(0, 3 * MS), Operation(0, 500 * MS)])
    shown = envelope(slices, 0, 1000 * MS, 2)
    assert shown.mean_ms == [2.0, 500.0]
    assert shown.worst_ms == [3.0, 500.0]
    assert shown.at_s == [0.25, 0.75]


def test_an_empty_campaign_has_a_span_and_a_page() -> None:
    empty = CampaignOutcome("none", "load", "host", 1, "obdsup-chaos run")
    assert span_ns(empty) == (0, 1)
    assert "nothing was served" in campaign_page(empty, NOW)


def test_rows_count_what_happened() -> None:
    rows = fault_rows(campaign())
    assert [(row.kind, row.inflicted, row.landed) for row in rows] == [
        ("worker-kill", 2, 2),
        ("both-kill", 1, 0),
    ]
    assert rows[0].recovered == 4
    assert rows[0].stall.max == 100.0
    assert kinds_by_count(campaign().faults) == ["worker-kill", "both-kill"]
    [load] = load_rows(campaign())
    assert load.operations == 501
    assert load.worst_ms == 100.0


def test_a_count_that_should_be_zero_is_marked() -> None:
    bad = campaign()
    bad.findings.stale.append("sector 3")
    assert [tile.label for tile in tiles(bad) if tile.is_bad] == ["stale"]
    assert not [tile.label for tile in tiles(campaign()) if tile.is_bad]


class _Links(HTMLParser):
    """What a browser would fetch or run, and the text it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.fetched.append(value)


def test_page_stands_alone_and_runs_no_script() -> None:
    bad = campaign("<script>alert(1)</script>")
    bad.findings.lost.append("<img src=x> & more")
    bad.failure = "the device <b>hung</b>"
    page = campaign_page(bad, NOW)
    seen = _Links()
    seen.feed(page)
    assert seen.fetched == []
    assert not {"script", "img", "link", "iframe", "b>"} & set(seen.tags)
    assert "&lt;img src=x&gt; &amp; more" in page
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.count("<svg") == 2


def test_same_campaign_gives_the_same_page() -> None:
    assert campaign_page(campaign(), NOW) == campaign_page(campaign(), NOW)


def test_files_are_whole_and_campaigns_of_one_name_stay_apart(tmp_path: Path) -> None:
    bare = campaign("ringd", 8)
    bare.faults = []
    pages = write([campaign(), bare, campaign("ringd", 8), campaign("a/b ../c")], tmp_path)
    assert [page.name for page in pages] == [
        "index.html", "ringd.html", "ringd-8.html", "ringd-8-2.html", "a-b-..-c.html",
    ]  # fmt: skip
    assert (tmp_path / "ringd-timeline.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "ringd-stalls.png").is_file()
    assert not (tmp_path / "ringd-8-stalls.png").exists()
    assert 'href="ringd-8.html"' in pages[0].read_text()
    assert not list(tmp_path.glob(".*"))


def test_summary_says_passed_or_why_not() -> None:
    console = Console(record=True, width=140, file=io.StringIO())
    bad = campaign("fuse")
    bad.findings.misplaced.append("sector 9 holds sector 8")
    good = campaign()
    good.kernel_false_alarms.append("data will be lost")
    print_summary([good, bad], console)
    text = console.export_text()
    assert "ringd: passed" in text
    assert "fuse: FAILED: 1 misplaced, not 0" in text
    assert "sector 9 holds sector 8" in text
    assert "ringd: said by the kernel, and not so: data will be lost" in text
