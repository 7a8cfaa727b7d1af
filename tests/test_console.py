"""Progress where there is no terminal."""

from evae import console


def test_a_line_a_minute_without_a_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("{task.fields[loss]}") as bar:
        task = bar.add_task("fitting", total=3000, loss="")
        for step in range(3):
            now[0] = 40.0 * step
            bar.update(task, advance=1000, loss=f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fitting: 3,000 of 3,000")
    assert lines[0].endswith("loss 2")


def test_a_task_without_a_total(monkeypatch, capsys):
    monkeypatch.setattr(console, "_SECONDS", 0)
    with console.progress() as bar:
        bar.advance(bar.add_task("counting", total=None))
    assert capsys.readouterr().err == "counting: 1\n"
