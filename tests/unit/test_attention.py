import gc
from contextlib import nullcontext

import pytest
import torch

from icl_lens.attention import flow_kernel
from icl_lens.attention.block import block
from icl_lens.attention.flow import flows, supports_single_row
from icl_lens.attention.record import record, record_rows
from icl_lens.attention.scale import scale
from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError

from ..differentiation import differentiate
from ..families import FAMILIES, UNSUPPORTED, tiny, unsupported

VOCABULARY = 97
IDS = torch.randint(1, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 9:] = 0


@pytest.fixture(params=FAMILIES)
def network(request):
    return tiny(request.param, VOCABULARY)


@torch.inference_mode()
def logits(network):
    return network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits


def eager_attentions(network, ids=IDS, mask=MASK):
    kernel = network.config._attn_implementation
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        found = network(input_ids=ids, attention_mask=mask, output_attentions=True, use_cache=False).attentions
    network.set_attn_implementation(kernel)
    return found


def test_recorded_weights_are_those_of_eager_attention(network):
    with record(network) as weights, torch.inference_mode():
        network(input_ids=IDS, attention_mask=MASK, use_cache=False)
    expected = eager_attentions(network)
    assert sorted(weights) == list(range(len(expected)))
    for layer, matrix in enumerate(expected):
        torch.testing.assert_close(weights[layer], matrix, atol=1e-6, rtol=1e-5)
        assert weights[layer].triu(1).abs().max() == 0  # causal


@pytest.mark.parametrize("padded", [True, False])
def test_recorded_rows_are_those_of_eager_attention(network, padded):
    mask = MASK if padded else torch.ones_like(MASK)
    rows = torch.tensor([11, 8])
    with record_rows(network, rows) as weights, torch.inference_mode():
        network(input_ids=IDS, attention_mask=mask, use_cache=False)
    expected = eager_attentions(network, mask=mask)
    assert sorted(weights) == list(range(len(expected)))
    for layer, matrix in enumerate(expected):
        torch.testing.assert_close(weights[layer], matrix[range(2), :, rows], atol=1e-5, rtol=1e-5)


def test_the_fused_kernel_keeps_running_while_rows_are_recorded(monkeypatch):
    network = tiny("llama", VOCABULARY)
    before = logits(network)
    fused, calls = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **o: calls.append(len(a)) or fused(*a, **o)
    )
    with record_rows(network, torch.tensor([11, 8])):
        assert torch.equal(logits(network), before)
        assert len(calls) == 3
        with record_rows(network, torch.tensor([4, 4])):
            logits(network)
        assert len(calls) == 6
        with scale(network, {}):
            logits(network)
        assert len(calls) == 6


def test_recorded_rows_see_the_edits_of_other_contexts(network):
    rows = torch.tensor([11, 8])
    edges = torch.zeros(2, 12, 12, dtype=torch.bool)
    edges[:, 8:, 2:5] = True
    factors = torch.linspace(0.2, 2.0, 12)

    def run():
        with torch.inference_mode():
            network(input_ids=IDS, attention_mask=MASK, use_cache=False)

    with block(network, {0: edges}):
        with record(network) as full:
            run()
        with record_rows(network, rows) as fused:
            run()
    with scale(network, {0: factors}):
        with record(network) as scaled:
            run()
        with record_rows(network, rows) as inside:
            run()
    with record_rows(network, rows) as outside, scale(network, {0: factors}):
        run()
    for layer in range(3):
        torch.testing.assert_close(fused[layer], full[layer][range(2), :, rows], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(inside[layer], scaled[layer][range(2), :, rows], atol=1e-6, rtol=1e-5)
    assert fused[0][:, :, 2:5].abs().max() == 0
    torch.testing.assert_close(outside[1], inside[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outside[0] * factors, inside[0], atol=1e-6, rtol=1e-5)


def test_an_open_context_changes_no_logit_by_itself(network):
    before = logits(network)
    with record(network):
        inside = logits(network)
    with record_rows(network, torch.tensor([11, 8])):
        torch.testing.assert_close(logits(network), before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inside, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", ["block", "scale", "record", "record_rows", "differentiate", "flows", "flows at rows"])
def test_after_a_context_the_logits_are_bit_equal_even_after_an_error(network, context):
    before = logits(network)
    edges = torch.zeros(2, 12, 12, dtype=torch.bool)
    edges[:, 5, :5] = True
    open_context = {
        "block": lambda: block(network, {0: edges}),
        "scale": lambda: scale(network, {1: torch.linspace(0.2, 2.0, 12)}),
        "record": lambda: record(network),
        "record_rows": lambda: record_rows(network, torch.tensor([11, 8])),
        "differentiate": lambda: differentiate(network, lambda *_: None),
        "flows": lambda: flows(network, lambda *_: None),
        "flows at rows": lambda: flows(network, lambda *_: None, rows=torch.tensor([11, 8])),
    }[context]
    with pytest.raises(RuntimeError, match="stop"), open_context():
        inside = logits(network)
        raise RuntimeError("stop")
    assert torch.equal(logits(network), before)
    if context in ("block", "scale"):
        assert not torch.allclose(inside, before, atol=1e-4)


def test_blocked_edges_are_zero_in_the_chosen_layers_only_and_the_rest_sums_to_one(network):
    edges = torch.zeros(2, 12, 12, dtype=torch.bool)
    edges[0, 5, :5] = True
    edges[1, 3, 1] = True
    with block(network, {1: edges}), record(network) as weights, torch.inference_mode():
        network(input_ids=IDS, attention_mask=MASK, use_cache=False)
    heads = weights[1].shape[1]
    blocked = edges[:, None].expand(-1, heads, -1, -1)
    assert weights[1][blocked].abs().max() == 0
    assert weights[0][blocked].min() > 0
    real = MASK.bool()[:, None, :].expand(-1, heads, -1)
    torch.testing.assert_close(weights[1].sum(-1)[real], torch.ones_like(weights[1].sum(-1)[real]))
    torch.testing.assert_close(weights[0], eager_attentions(network)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
def test_blocking_is_the_same_on_the_fused_kernel_and_written_out(network, padded):
    mask = MASK if padded else torch.ones_like(MASK)
    edges = torch.zeros(2, 12, 12, dtype=torch.bool)
    edges[:, 5, :5] = True

    def run():
        return network(input_ids=IDS, attention_mask=mask, use_cache=False).logits[mask.bool()]

    with torch.inference_mode(), block(network, {0: edges, 2: edges}):
        fused = run()
        with record(network):
            written_out = run()
    torch.testing.assert_close(fused, written_out, atol=1e-5, rtol=1e-4)


def test_scaling_multiplies_after_the_softmax_and_does_not_renormalise(network):
    factors = torch.ones(1, 4, 12, 12)
    factors[0, 2, 11, 4] = 3.0
    with (
        scale(network, {1: factors}),
        record(network) as weights,
        torch.inference_mode(),
    ):
        network(input_ids=IDS, attention_mask=MASK, use_cache=False)
    plain = eager_attentions(network)
    torch.testing.assert_close(weights[1], plain[1] * factors, atol=1e-6, rtol=1e-5)
    assert (weights[1][0, 2, 11].sum() - 1 - 2 * plain[1][0, 2, 11, 4]).abs() < 1e-5


def test_a_gradient_reaches_the_factors(network):
    factors = torch.ones(1, 4, 12, 12, requires_grad=True)
    with scale(network, {1: factors}):
        network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[0, -1, 3].backward()
    assert factors.grad[0, :, 11].abs().max() > 0
    assert factors.grad.triu(1).abs().max() == 0


def test_gradients_are_those_that_autograd_finds(network):
    received = {}
    with differentiate(network, lambda layer, a, g: received.setdefault(layer, (a.clone(), g.clone()))):
        network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[:, 8, 3].sum().backward()

    network.set_attn_implementation("eager")
    embeddings = network.get_input_embeddings()(IDS).requires_grad_()
    out = network(inputs_embeds=embeddings, attention_mask=MASK, output_attentions=True, use_cache=False)
    expected = torch.autograd.grad(out.logits[:, 8, 3].sum(), out.attentions)
    assert list(received) == [2, 1, 0]
    for layer, gradient in enumerate(expected):
        torch.testing.assert_close(received[layer][0], out.attentions[layer], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(received[layer][1], gradient, atol=1e-5 * gradient.abs().max().item(), rtol=1e-4)


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "with matrices"])
@pytest.mark.parametrize("elements", [1, 100, 2**19])
def test_flows_are_those_of_the_differentiated_matrices(network, monkeypatch, elements, nested):
    monkeypatch.setitem(flow_kernel._ELEMENTS, "cpu", elements)  # one row at a time, a few rows, all rows
    found, expected = {}, {}

    def keep(layer, weights, gradient):
        expected[layer] = ((weights * gradient).sum(1).abs(), weights.mean(1))

    def run():
        network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[:, 8, 3].sum().backward()

    with differentiate(network, keep):
        run()
    with (
        flows(network, lambda layer, *flow: found.setdefault(layer, flow), with_weights=True),
        record(network) if nested else nullcontext(),
    ):
        run()
    assert list(found) == [2, 1, 0]
    for layer, (flow, weights) in expected.items():
        assert flow.max() > 0
        # Only padding follows the last position that contributes to the loss. The means over padding are never requested.
        assert (found[layer][0] - flow).abs().max() <= 1e-5 * flow.max()
        torch.testing.assert_close(found[layer][1], weights, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("elements", [1, 2**19])
def test_flows_of_one_row_a_prompt_are_those_of_a_whole_last_layer(network, monkeypatch, elements):
    monkeypatch.setitem(flow_kernel._ELEMENTS, "cpu", elements)
    assert supports_single_row(network)
    places, rows = torch.arange(2), torch.tensor([11, 8])
    found, logits = {}, {}
    for kind, at in (("whole", None), ("rows", rows)):
        of_kind = found.setdefault(kind, {})
        with flows(network, lambda layer, *flow, to=of_kind: to.setdefault(layer, flow), True, at):
            output = network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[places, rows]
            output[:, 3].sum().backward()
        logits[kind] = output.detach()
    torch.testing.assert_close(logits["rows"], logits["whole"], atol=1e-5, rtol=1e-5)
    assert list(found["rows"]) == list(found["whole"]) == [2, 1, 0]
    for layer, (flow, weights) in found["whole"].items():
        assert flow.max() > 0
        assert (found["rows"][layer][0] - flow).abs().max() <= 1e-5 * flow.max()
        if layer == 2:  # only the mean weights of this row are available
            weights = torch.zeros_like(weights).index_put((places, rows), weights[places, rows])
        torch.testing.assert_close(found["rows"][layer][1], weights, atol=1e-6, rtol=1e-5)


def test_one_row_of_the_last_layer_runs_through_its_feed_forward_part():
    network = tiny("llama", VOCABULARY)
    widths = []
    for layer in network.model.layers:
        layer.mlp.register_forward_hook(lambda module, given, out: widths.append(out.shape[1]))
    with flows(network, lambda *_: None, rows=torch.tensor([11, 8])):
        network(input_ids=IDS, attention_mask=MASK, use_cache=False)
    assert widths == [12, 12, 1]
    with flows(network, lambda *_: None, rows=torch.tensor([11, 8])), record(network) as weights:
        network(input_ids=IDS, attention_mask=MASK, use_cache=False)
    assert weights[2].shape[-2:] == (12, 12), "matrices are of every row"


def test_a_family_whose_last_layer_needs_every_row_is_found_out():
    network = tiny("llama", VOCABULARY)
    inner = network.model.layers[-1].forward
    # Each output row also depends on another row.
    network.model.layers[-1].forward = lambda state, *args, **kwargs: inner(state, *args, **kwargs) + state[:, :1]
    assert not supports_single_row(network)
    network.model.layers[-1].forward = lambda state, **kwargs: inner(state[:, :8].reshape(2, 8, -1), **kwargs)
    assert not supports_single_row(network), "nor one that fails"


def test_flows_keep_no_matrix(monkeypatch):
    network = tiny("llama", VOCABULARY)
    matrices = []

    def pack(tensor):
        matrices.append(tensor.shape[-2:] == (11, 11) and tensor.numel() >= 2 * 4 * 11 * 11)
        return tensor

    with (
        flows(network, lambda *_: None),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        network(input_ids=IDS[:, 1:], attention_mask=MASK[:, 1:], use_cache=False)
    assert matrices
    assert not any(matrices)
    with (
        differentiate(network, lambda *_: None),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        network(input_ids=IDS[:, 1:], attention_mask=MASK[:, 1:], use_cache=False)
    assert any(matrices), "the other way keeps them, so the hooks would have seen them"


def test_nothing_is_kept_of_a_differentiated_pass(network):
    with differentiate(network, lambda *_: None):
        network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[:, 8, 3].sum().backward()
    assert all(p.grad is None for p in network.parameters())
    assert not any(name.startswith("_icl_lens") for m in network.modules() for name in vars(m))


def test_contexts_nest_and_close_in_order(network):
    before = logits(network)
    with scale(network, {0: torch.tensor(0.5)}):
        scaled = logits(network)
        with record(network) as weights:
            assert torch.equal(logits(network), scaled)
        assert weights[0].sum(-1).max() < 0.51
        assert torch.equal(logits(network), scaled)
    assert torch.equal(logits(network), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_are_seen_to_be_supported(family):
    require_supported(tiny(family, VOCABULARY))


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_a_family_that_is_not_supported_is_refused_by_name_with_the_reason(family):
    network, reason = unsupported(family, VOCABULARY)
    with pytest.raises(InputError) as caught:
        require_supported(network)
    assert str(caught.value) == f"model family {family!r} is not supported: {reason}"


def test_a_family_whose_attention_takes_no_mask_is_refused(monkeypatch):
    network = tiny("llama", VOCABULARY)
    for layer in network.model.layers:
        run = layer.self_attn.forward
        mask = torch.full((8, 8), -1e30).triu(1)[None, None]
        monkeypatch.setattr(
            layer.self_attn, "forward", lambda *a, run=run, mask=mask, **o: run(*a, **{**o, "attention_mask": mask})
        )
    with pytest.raises(InputError, match="its attention modules take no attention_mask, so no edge can be blocked"):
        require_supported(network)


def test_one_layers_matrices_are_gone_before_the_next_are_handed_over():
    network, alive = tiny("llama", VOCABULARY), []

    def sink(layer, weights, gradient):
        gc.collect()
        matrices = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == (2, 4, 12, 12)]
        alive.append(len({m.data_ptr() for m in matrices}))

    with differentiate(network, sink):
        network(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[:, 8, 3].sum().backward()
    assert alive == [4, 3, 2], "the weights that autograd still needs (of layers 0 to l) and one gradient"


def test_the_kernels_of_the_models_in_a_model_come_back():
    network = tiny("gemma3", VOCABULARY)
    network.model.vision_tower.set_attn_implementation("eager")
    with record(network):
        logits(network)
    assert network.config.text_config._attn_implementation == "sdpa"
    assert network.config.vision_config._attn_implementation == "eager"
