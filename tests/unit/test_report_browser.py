"""The report in headless Chromium, from the disk and without a network: sort, filter, tabs, plots, trials, downloads"""

import csv
import json

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from raybench.reports.pages import site
from raybench.reports.pages.content import read_content
from raybench.reports.pages.rank_views import FEW, scope_views
from raybench.reports.pages.site import write_report
from tests.unit.browsing import CONTRAST
from tests.unit.report_stores import hostile, seeded, store
from tests.unit.result_rows import RECIPE, failure, row, trial

BOARD = "board-digits-cifar-resnet20-protected-global"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    rows = seeded(("cifar-resnet20", "cifar-resnet56", "vit-nano"))
    written = store(folder / "st", rows, [failure(trial("hrank", speedup=8.0), message="singular matrix")])
    write_report(written, folder / "pages")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(site, "PACKED_FROM", 0)  # as in a large report
        write_report(written, folder / "one.html", single=True)
    rows, failures = hostile()
    write_report(store(folder / "bad", rows, failures), folder / "bad.html", single=True)
    return folder


@pytest.fixture(params=["folder", "single"])
def opened(request, browser, report):
    """Opens a page of a report in both forms; anything that a page reports as an error fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800})
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))

    def goto(name, extra=""):
        address = (
            f"pages/{name}.html{extra}" if request.param == "folder" else f"one.html#{name}{extra.replace('#', '/')}"
        )
        page.goto(f"file://{report}/{address}")
        page.locator("article:visible[data-opened]").wait_for()
        return page

    yield goto
    assert not said
    context.close()


def column(page, place):
    rows = page.locator("article:visible [role=tabpanel]:visible tbody tr:visible").all()
    return [row.locator("th,td").nth(place).inner_text() for row in rows]


def test_tabs_show_one_speedup_at_a_time(opened):
    page = opened(BOARD)
    panels = page.locator("article:visible [role=tabpanel]")
    assert panels.count() == 3
    assert panels.filter(visible=True).count() == 1
    page.get_by_role("tab", name="4x").click()
    assert page.get_by_role("tab", name="4x").get_attribute("aria-selected") == "true"
    assert "4x" in panels.filter(visible=True).get_by_role("region").get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("tab", name="2x").get_attribute("aria-selected") == "true"


def test_a_heading_sorts_both_ways(opened):
    page = opened(BOARD)
    before = [float(text.split()[0]) for text in column(page, 2)]
    assert before == sorted(before, reverse=True)
    heading = page.locator("article:visible [role=tabpanel]:visible th button", has_text="final")
    heading.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    after = [float(text.split()[0]) for text in column(page, 2)]
    assert after == sorted(before)
    assert page.locator("article:visible [role=tabpanel]:visible th[aria-sort=ascending]").count() == 1


def test_tracks_and_words_filter_and_rank_anew(opened):
    page = opened(BOARD)
    assert len(column(page, 1)) == 5
    page.locator("article:visible .pick button", has_text="Criteria").click()
    assert len(column(page, 1)) == 4
    assert column(page, 0)[0] == "1"
    page.locator("article:visible input.filter").fill("lamp")
    assert [text.split()[0] for text in column(page, 1)] == ["lamp"]
    assert column(page, 0) == ["2"]


def test_a_mark_tells_its_method_and_the_legend_lights_it(opened):
    page = opened(BOARD)
    page.locator("article:visible svg circle[data-t]").last.hover()  # on top of others
    assert "n = 3" in page.locator("#tip").inner_text()
    plot = page.locator("article:visible svg.drawing").first
    plot.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() != first
    page.locator("article:visible .legend button").first.click()
    assert page.locator("article:visible .plots.dim .on").count() > 0


def test_a_trial_opens_from_its_board(opened):
    page = opened(BOARD)
    page.locator("article:visible [role=tabpanel]:visible td[data-ids] a").first.click()
    page.get_by_role("heading", level=1).filter(visible=True).wait_for()
    page.locator(".trial svg").first.wait_for()
    text = page.locator(".trial").inner_text()
    assert "raybench show" in text
    assert "Widths of layers" in text
    assert "8 of 16" in page.locator(".trial svg").last.inner_html()


def test_a_trial_that_is_not_there_is_said(opened):
    page = opened("trial", "#feedbeef")
    page.locator(".trial [role=alert]").wait_for()
    assert "no trial feedbeef" in page.locator(".trial").inner_text()


def test_a_matrix_of_few_methods_is_no_wider_than_a_telephone_bears(browser, tmp_path):
    """Five methods here; of more than six the matrix keeps its width, and scrolls."""
    write_report(store(tmp_path / "st", seeded(("cifar-resnet20", "vit-nano"))), tmp_path / "pages")
    page = browser.new_context(offline=True).new_page()
    for width, at_most in ((400, 460), (1200, 620)):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"file://{tmp_path}/pages/ranks.html")
        drawn = page.locator("[role=tabpanel]:visible .pairs svg").bounding_box()
        assert 300 < drawn["width"] <= at_most
    names = [f"m{place}" for place in range(FEW + 1)]
    many = [row(trial(name), metric_final=90.0 + place) for place, name in enumerate(names)]
    assert [one.few for one in scope_views(read_content(store(tmp_path / "many", many)))] == [False]
    assert [one.few for one in scope_views(read_content(store(tmp_path / "few", many[1:])))] == [True]


def test_the_list_of_trials_has_a_recipe_where_there_are_several(browser, tmp_path):
    recipes = [RECIPE, RECIPE.model_copy(update={"name": "other"})]
    rows = [row(trial(recipe=one, speedup=2.0 + place)) for place, one in enumerate(recipes)]
    page = browser.new_context(offline=True).new_page()
    for count, there in ((1, 0), (2, 1)):
        write_report(store(tmp_path / f"st{count}", rows[:count]), tmp_path / f"pages{count}")
        page.goto(f"file://{tmp_path}/pages{count}/trials.html")
        page.locator(".pager [role=status]").wait_for()
        assert page.get_by_label("recipe").count() == there
        assert page.get_by_role("button", name="recipe").count() == there
        assert page.get_by_role("button", name="protocol").count() == 0
    page.get_by_label("recipe").select_option("other")
    assert page.locator(".list tbody tr").count() == 1


def test_the_list_of_trials_filters(opened):
    page = opened("trials")
    page.locator("article:visible .pager [role=status]").wait_for()
    page.get_by_label("status").select_option("failed")
    assert "1 to 1 of 1 (91 in all)" in page.locator("article:visible .pager").inner_text()
    page.locator("article:visible .list a").click()
    page.locator(".trial pre").first.wait_for()
    assert "singular matrix" in page.locator(".trial").inner_text()


@pytest.mark.parametrize(("table", "count"), [("boards", 30), ("trials", 91), ("pairs", 30)])
def test_tables_download_as_csv_json_and_parquet(opened, tmp_path, table, count):
    page = opened("downloads")
    contents = {}
    row = page.locator("article:visible tr", has=page.locator(f"button[data-table={table}]"))
    for form in ("CSV", "JSON", "Parquet"):
        with page.expect_download() as waiting:
            row.get_by_text(form, exact=True).click()
        waiting.value.save_as(tmp_path / form)
        contents[form] = (tmp_path / form).read_bytes()
    rows = list(csv.DictReader(contents["CSV"].decode().splitlines()))
    parsed = json.loads(contents["JSON"])
    assert len(rows) == len(parsed) == count
    assert set(rows[0]) == set(parsed[0])
    assert contents["Parquet"][:4] == b"PAR1"


def test_markup_in_names_never_runs(browser, report):
    context = browser.new_context(offline=True)
    page = context.new_page()
    ran = []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.goto(f"file://{report}/bad.html#trials")
    page.locator("article:visible .list a").first.wait_for()
    for name in ("index", "boards", "failures", "methods", "findings", "ranks", "compare"):
        page.evaluate("name => { location.hash = name }", name)
        page.locator(f"#page-{name}").filter(visible=True).wait_for()
    for link in page.locator("#page-failures a").all()[:1]:
        page.evaluate("to => { location.hash = to }", link.get_attribute("href"))
        page.locator(".trial pre").first.wait_for()
        assert "\u202e" not in page.locator("main").inner_text()
    assert not ran
    assert page.locator("img").count() == 0
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (800, "light"), (1600, "dark")])
def test_pages_fit_their_window_and_can_be_read(browser, report, width, scheme):
    """No page scrolls sideways, and texts have a contrast of at least 4.5 to what lies behind them."""
    context = browser.new_context(offline=True, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for name in ("index", BOARD, "ranks", "methods", "findings", "failures"):
        page.goto(f"file://{report}/pages/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, name
        assert page.evaluate(CONTRAST) == [], (name, scheme)
    context.close()


@pytest.mark.parametrize(
    "name", ["index", "boards", BOARD, "trials", "methods", "method-lamp", "findings", "downloads"]
)
def test_on_a_laptop_no_table_scrolls_sideways(opened, name):
    page = opened(name)
    hidden = "all => all.map(one => one.scrollWidth - one.clientWidth).filter(one => one > 0)"
    tables = page.locator("article:visible .scroll:visible")
    assert tables.count() > 0
    assert tables.evaluate_all(hidden) == []
