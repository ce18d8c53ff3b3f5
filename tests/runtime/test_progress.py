import io
import time

from rich.console import Console

from acclimate.runtime.progress import live, silent


def test_silent_says_nothing(capsys):
    silent("align", 1, 2, "epoch 1")
    assert capsys.readouterr() == ("", "")


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with live(Console(file=io.StringIO())) as progress:
        for done in range(1, 101):
            progress("align", done, 100, f"epoch {done}")
            now[0] += 1.0
        progress("corrupt", 1, 2, "")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "align: 1/100 epoch 1",
        "align: 32/100 epoch 32",
        "align: 63/100 epoch 63",
        "align: 94/100 epoch 94",
        "align: 100/100 epoch 100",
        "corrupt: 1/2 ",
    ]


def test_bars_on_a_terminal(capsys):
    screen = io.StringIO()
    with live(Console(file=screen, force_terminal=True, width=120)) as progress:
        progress("align", 1, 4, "epoch 1")
        progress("align", 4, 4, "epoch 4")
        progress("corrupt", 1, 3, "fog")
    shown = screen.getvalue()
    assert "align" in shown and "4/4" in shown and "epoch 4" in shown
    assert "corrupt" in shown and "1/3" in shown and "fog" in shown
    assert capsys.readouterr() == ("", "")
