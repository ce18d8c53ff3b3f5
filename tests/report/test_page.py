import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from plotly.offline import get_plotlyjs

from acclimate.errors import InputError
from acclimate.evaluate.variant import Variant
from acclimate.methods.changes import settings_record
from acclimate.report.analyses import Analysis
from acclimate.report.gains import Gain
from acclimate.report.page import Report, write_page
from acclimate.report.protocol_cards import ShownCard
from acclimate.report.published import Published
from acclimate.report.samples import Sample

EVIL = "</script><script>alert(1)</script>"


def sample(size=28):
    image = torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8)
    return Sample(image, 255 - image, "fog", EVIL, EVIL, 0.625, "coat", 0.874)


@pytest.fixture(scope="module")
def cells(measured, share):
    """Two bundles; the second is called something evil."""
    rows = {"source": (18, 8, 4, 2), "ptbn": (17, 12, 10, 9), "tent": (16, 13, 11, 9)}
    return [
        measured(method, corruption, share(count), bundle=bundle, curve=curve)
        for bundle in ("good", EVIL)
        for method, counts in rows.items()
        for corruption, count in zip(("none", "fog", "contrast", "saturate"), counts)
        for curve in [(0.1, count / 20) if method == "tent" else ()]
    ]


@pytest.fixture(scope="module")
def write(cells, tmp_path_factory):
    def write(**changes):
        arguments = {
            "title": f"Report {EVIL}",
            "measured": cells,
            "settings": {
                name: settings_record(Variant.parse(name).settings)
                for name in ("source", "ptbn", "tent")
            },
            "provenance": {"seed": 7, "settings": {"steps": 3, EVIL: EVIL}, "commands": [EVIL]},
            "held_out": ("saturate",),
            "published": [
                Published("tent", corruption, 5, accuracy, None)
                for corruption, accuracy in (("fog", 0.75), ("contrast", 0.65))
            ],
            "analyses": [Analysis("x", EVIL, EVIL, (EVIL,), ((EVIL,),))],
            "samples": [sample()],
            "parts": [(EVIL, Gain(0.012, -0.003, 0.02))],
        } | changes
        path = tmp_path_factory.mktemp("page") / "report.html"
        write_page(path, Report(**arguments))
        return path.read_text(encoding="utf-8")

    return write


@pytest.fixture(scope="module")
def text(write):
    """The page without plotly, which is not ours."""
    page = write()
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.unbalanced = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.unbalanced.append(tag)


def plain(text):
    """What is read."""
    return " ".join(re.sub(r"<[^>]*>", "", text).replace("&nbsp;", " ").split())


def test_without_answers_there_are_gains_but_no_intervals(write, cells):
    bare = [each._replace(cell=replace(each.cell, answers=None, curve=())) for each in cells]
    page = plain(write(measured=bare, parts=()).replace(get_plotlyjs(), ""))
    assert "without intervals, which take the answers to each image" in page
    assert "95 %" not in page and "The best was picked on these same images." in page
    assert not re.search(r"[+−][\d.]+ \[", page)


def test_the_page_needs_nothing_from_elsewhere(text):
    tags = Tags(text)
    links = [
        value
        for _, name, value in tags.attributes
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
    ]
    assert links and all(value.startswith(("data:", "#")) for value in links)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert not [tag for tag, *_ in tags.attributes if tag in ("link", "iframe")]
    assert not re.findall(r"https?://[^\s\"'<>]+", text)


def test_the_page_is_well_formed_its_ids_are_unique_and_its_links_lead_there(text):
    tags = Tags(text)
    assert not tags.open and not tags.unbalanced
    ids = [value for _, name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    inner = [v[1:] for _, name, v in tags.attributes if name == "href" and v.startswith("#")]
    assert inner and set(inner) <= set(ids)


def test_a_space_stands_between_sentences(text):
    said = re.sub(r"<(style|script)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert "the same difference there. Without steps" in plain(said)
    assert not re.findall(r"[a-z)%]\.[A-Z]\w+ ", plain(said))


def test_everything_written_by_others_is_escaped(text):
    assert "<script>alert" not in text and "</script><script>a" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 12


def test_the_figures_are_json(text):
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    figures = [json.loads(each) for each in found]
    assert len(figures) >= 5
    assert all(figure["data"] and figure["layout"]["height"] for figure in figures)


def test_the_first_sentence_is_computed_from_the_cells(text):
    # tent: 13 and 11 of 20 under fog and contrast, source 8 and 4, ptbn 12 and 10.
    said = plain(text)
    assert re.search(r"Of 3 methods tent · \S+.* has the best mean under corruption, 60\.0 %", said)
    assert "+30.0 [" in said and "Batch-norm statistics alone explain +25.0 [" in said


def test_a_twin_owes_to_alignment_too(write, measured, share):
    rows = {"source": 8, "aligned-bn": 12, "cta": 14}
    cells = [measured(name, "fog", share(right)) for name, right in rows.items()]
    settings = {name: settings_record(Variant.parse(name).settings) for name in rows}
    said = plain(write(measured=cells, settings=settings, published=()))
    assert "Alignment and batch-norm statistics, without a step, explain +20.0 [" in said


def test_the_table_shows_and_marks_what_was_measured(text):
    table = text.split("<tbody>")[1].split("</tbody>")[0]
    rows = {
        re.search('data-value="([^"]+)"', row)[1]: re.findall(
            r'<td class="([^"]*)"[^>]*>(.*?)</td>', row, re.S
        )
        for row in table.split("</tr>")[:-1]
    }
    tent = [(kind.strip(), plain(figure)) for kind, figure in rows["tent · good"]]
    assert tent == [
        ("", "80.0"), ("mean best", "60.0"), ("held", "70.0"), ("oracle", "60.0"),
        ("best", "65.0"), ("best", "55.0"), ("held edge best", "45.0"),
    ]  # fmt: skip
    assert ("mean second", "55.0") in [(k.strip(), f) for k, f in rows["ptbn · good"]]


def test_downloads_hold_the_table(text):
    found = re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', text)
    files = {name: base64.b64decode(data).decode() for name, data in found}
    assert set(files) == {"table-1.csv", "table-1.md", "table-1.tex"}
    assert "tent" in files["table-1.csv"] and "| tent · good | 80.0" in files["table-1.md"]
    assert "toprule" in files["table-1.tex"]


def test_published_numbers_stand_beside_ours(text):
    section = plain(text.split('id="published"')[1].split("</table>")[0])
    assert "tent · good 80.0 – 60.0 70.0 65.0 75.0 55.0 65.0 45.0 –" in section
    assert "ptbn" not in section


def test_what_is_not_there_has_no_section(write, measured, share):
    bare = [measured("tent", "fog", share(3), cost=float("nan"))]
    nothing = {"published": (), "analyses": (), "samples": (), "parts": ()}
    text = write(measured=bare, provenance={}, held_out=(), **nothing)
    text = text.replace(get_plotlyjs(), "")
    assert not Tags(text).unbalanced
    for absent in ("Published", "Analyses", "Samples", "each part", "Each part", "Protocol cards",
                   "Other protocols",
                   "passes an image", "gain on source", "oracle", "†", "over seeds"):  # fmt: skip
        assert absent not in plain(text.split("<body>")[1].split("<script>\n")[0]), absent
    with pytest.raises(InputError, match="no results"):
        write(measured=[])


def test_the_parts_of_a_gain_stand_beside_it(write, cells, measured, share):
    more = [
        measured("tent:steps=0", corruption, share(count), bundle="good")
        for corruption, count in (("fog", 10), ("contrast", 9))
    ]
    settings = {
        name: settings_record(Variant.parse(name).settings)
        for name in ("source", "ptbn", "tent", "tent:steps=0")
    }
    text = write(measured=[*cells, *more], settings=settings).replace(get_plotlyjs(), "")
    assert not Tags(text).unbalanced
    section = text.split('id="each-part"')[1].split("</table>")[0]
    # 24 right answers of 40 with the steps, 19 without, 12 of the frozen classifier.
    shown = plain(section)
    assert "method gain on source statistics steps" in shown
    assert "tent · good+30.0 [" in shown and "– +12.5 [" in shown


def test_protocol_cards_say_what_is_common_once(write):
    cards = [
        ShownCard("", {"batch size": "128", "images (SHA-256)": EVIL}),
        ShownCard("tent · good", {"weights of the bundle (SHA-256)": "abc"}),
    ]
    text = write(protocol_cards=cards).replace(get_plotlyjs(), "")
    assert not Tags(text).unbalanced and EVIL not in text
    section = plain(text.split('id="cards"')[1].split('id="again"')[0])
    assert "what all have in common batch size = 128" in section
    assert "tent · good weights of the bundle (SHA-256) = abc" in section


def test_other_protocols_have_tables_of_their_own(write, cells, measured, share):
    more = [measured("tent", "fog", share(3), bundle="good", order="continual")]
    text = write(measured=[*cells, *more])
    assert "<summary>tiny, severity 5, continual, batches of 128</summary>" in text
    assert 'id="table-2"' in text and 'download="table-2.csv"' in text


def test_large_samples_keep_the_page_small(write):
    text = write(samples=[sample(size=256)] * 12)
    assert len(text.encode()) - len(get_plotlyjs().encode()) < 2_000_000
