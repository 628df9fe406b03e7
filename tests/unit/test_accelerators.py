import sys

import pytest
import torch

from icl_lens.models import loading
from icl_lens.network import accelerators


@pytest.mark.parametrize(("device", "found"), [("cpu", False), ("cuda", True), ("mps", True)])
def test_a_named_device_says_it_itself(device, found):
    assert accelerators.expected(device) is found


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_auto_looks_for_what_a_driver_puts_there(tmp_path, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(accelerators, "_DEVICES", (str(tmp_path / "nvidia0"),))
    assert not accelerators.expected("auto")
    (tmp_path / "nvidia0").touch()
    assert accelerators.expected("auto")


@pytest.mark.parametrize(("cuda", "picked"), [(True, "cuda"), (False, "cpu")])
def test_auto_never_picks_mps_which_must_be_asked_for(monkeypatch, cuda, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert loading.pick_device("auto").type == picked
    assert loading.pick_device("mps").type == "mps"
