"""Tests of the format of float32 matrix products: it is the requested one, regardless of torch or environment settings."""

import logging

import pytest
import torch

from icl_lens.attention.flow import supports_single_row
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models import loading, prefixes
from icl_lens.network import precision
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.component_reweighting.decomposition import Decomposer

from ..reduced_products import emulated

CPU = torch.device("cpu")

CHECKS = {
    "is the family supported?": lambda model: require_supported(model.network),
    "is the model causal?": lambda model: loading.require_causal("model folder", model.network),
    "can it share a beginning?": lambda model: prefixes.is_shareable(model.network),
    "can its last layer do with some rows?": lambda model: supports_single_row(model.network),
    "can its demonstrations be compressed?": compressed_demonstrations.require_compressible,
    "can it be decomposed?": lambda model: Decomposer(model.network),
}


@pytest.fixture(autouse=True)
def as_before():
    """Restore the settings after each test."""
    with precision.exact_products():
        yield


def settings():
    """Return all settings of torch for float32 products."""
    return vars(precision._Settings.read())


@pytest.fixture(params=["older interface", "newer interface", "for all backends"])
def reduced(request):
    """Set torch to reduced products, as a user may do in advance."""
    if request.param == "older interface":
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
    elif request.param == "newer interface":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"
    else:
        torch.backends.cuda.matmul.fp32_precision = "none"
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.fp32_precision = "tf32"
    yield
    torch.backends.fp32_precision = "none"


def test_exact_products_are_exact_and_what_was_set_comes_back(reduced):
    before = settings()
    with precision.exact_products():
        inside = settings()
        assert torch.backends.cuda.matmul.allow_tf32 is False
    assert settings() == before
    assert (inside["matmul"], inside["convolutions"], set(inside["formats"].values())) == ("highest", False, {"ieee"})
    assert before["formats"] != inside["formats"]


def test_what_was_set_comes_back_after_an_error(reduced):
    before = settings()
    with pytest.raises(RuntimeError, match="stop"), precision.exact_products():
        raise RuntimeError("stop")
    assert settings() == before


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_that_compares_computations_runs_in_exact_products(language_model, check):
    model = language_model("gpt2")
    torch.set_float32_matmul_precision("medium")
    seen = set()
    model.network.register_forward_pre_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))
    CHECKS[check](model)
    assert seen == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"


def test_checks_whose_two_sides_make_other_products_pass_on_a_device_that_reduces_them(language_model):
    model = language_model("llama")
    torch.set_float32_matmul_precision("medium")
    with emulated():
        assert precision.measured_format(CPU) == "bfloat16"
        assert model.supports_single_row
        Decomposer(model.network)


def test_the_emulated_device_reduces_products_where_torch_is_set_to_it():
    with emulated():
        assert precision.measured_format(CPU) == "float32"
        torch.set_float32_matmul_precision("medium")
        assert precision.measured_format(CPU) == "bfloat16"


def test_fast_says_which_products_the_device_has(caplog):
    with emulated(), precision.products("fast", CPU) as found:
        assert found == "bfloat16"
    assert not caplog.records


def test_fast_where_the_device_has_no_such_products_is_exact_and_says_so(caplog, monkeypatch):
    monkeypatch.setattr(precision, "measured_format", lambda device: "float32")
    with caplog.at_level(logging.WARNING), precision.products("fast", CPU) as found:
        assert found == "float32"
        assert torch.get_float32_matmul_precision() == "highest"  # other kernels would add in a different order
    assert [r.getMessage() for r in caplog.records] == [
        "matmul: fast has no effect: this CPU (no AMX) has no faster float32 products, so they are exact"
    ]


def test_exact_on_a_device_that_reduces_anyway_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setattr(precision, "measured_format", lambda device: "tf32")
    with (
        pytest.raises(InputError, match=r"^matmul is exact, but cuda multiplies .* in tf32 .*; remove NVIDIA_TF32_OVERRIDE=1 "),
        precision.products("exact", torch.device("cuda")),
    ):
        pass


def test_another_word_is_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="'exact' or 'fast'"), precision.products("quick", CPU):
        pass


@pytest.mark.parametrize(("digits", "format"), [(7, "bfloat16"), (10, "tf32"), (23, "float32")])
def test_a_format_is_told_by_its_digits(monkeypatch, digits, format):
    inner = torch.Tensor.__matmul__
    rounded = lambda one, other: inner(one, (other * 2.0**digits).round() / 2.0**digits)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert precision.measured_format(CPU) == format
