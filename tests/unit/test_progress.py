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


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress(10, "saliency of gpt2") as advance:
        advance(10)
    assert "saliency of gpt2: 100%" in capsys.readouterr().err
