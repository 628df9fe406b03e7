import sys

import pytest

from icl_lens import accelerators


@pytest.mark.parametrize(("device", "found"), [("cpu", False), ("cuda", True), ("mps", True)])
def test_a_named_device_says_it_itself(device, found):
    assert accelerators.expected(device) is found


def test_auto_looks_for_what_a_driver_puts_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(accelerators, "_DEVICES", (str(tmp_path / "nvidia0"),))
    assert not accelerators.expected("auto")
    (tmp_path / "nvidia0").touch()
    assert accelerators.expected("auto")
