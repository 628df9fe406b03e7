import logging

from icl_lens import progress


def test_a_log_gets_plain_lines_and_always_the_last(caplog, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), progress.progress(10, "saliency of gpt2") as advance:
        advance(4)
        advance(6)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, "no more than one line in ten seconds"
    assert lines[0].startswith("saliency of gpt2: 10 of 10 prompts, ")
    assert "\r" not in lines[0]


def test_a_download_is_told_in_bytes_and_what_was_here_before_is_no_speed(caplog, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    clock = iter([0.0, 4.0, 12.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), progress.progress(5_000_000_000, "gpt2: x", unit="byte", done=2_000_000_000) as advance:
        advance(500_000_000)
        advance(700_000_000)
        advance(1_800_000_000)
    assert [record.getMessage() for record in caplog.records] == [
        "gpt2: x: 3.2 GB of 5.0 GB, 100.0 MB per second",
        "gpt2: x: 5.0 GB of 5.0 GB, 150.0 MB per second",
    ]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress(10, "saliency of gpt2") as advance:
        advance(10)
    assert "saliency of gpt2: 100%" in capsys.readouterr().err


def test_prompts_that_take_several_runs_are_told_when_all_their_runs_are_done():
    told = []
    report = progress.Runs(told.append, 3)
    for count in (2, 2, 2, 5, 1):
        report(count)
    assert told == [1, 1, 1, 1]
