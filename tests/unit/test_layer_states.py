import pytest
import torch

from icl_lens.network import layer_states

from ..families import FAMILIES, tiny

IDS = torch.arange(1, 23).view(2, 11)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_pass_that_begins_at_a_layer_has_the_logits_of_a_whole_one(family):
    network = tiny(family, 50)
    assert layer_states.can_resume(network)
    with layer_states.record(network, [1, 2]) as states:
        plain = network(input_ids=IDS, use_cache=False).logits
    assert sorted(states) == [1, 2]
    for state in states.values():
        with layer_states.resume(network, state):
            found = network(input_ids=IDS.flip(1), use_cache=False).logits
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(network(input_ids=IDS, use_cache=False).logits, plain), "no layer is skipped any more"


def test_a_family_that_cannot_begin_at_a_layer_is_found_out():
    network = tiny("llama", 50)
    inner = network.model.norm.forward
    # The final norm, which follows the layers, also uses the embeddings, which precede them.
    given = []
    network.model.embed_tokens.register_forward_hook(lambda module, args, output: given.append(output))
    network.model.norm.forward = lambda state: inner(state + given[-1])
    assert not layer_states.can_resume(network)
    assert not layer_states.can_resume(tiny("llama", 50, layers=1))
