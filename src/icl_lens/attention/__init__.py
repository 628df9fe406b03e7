"""Access to attention: block edges, scale weights, record them, and measure information flow.

Context managers, and one function that stops early (:func:`icl_lens.attention.keys_and_values.queries_and_keys`), work the same
for all supported families (:func:`icl_lens.attention.supported.require_supported`). Outside them a model is unchanged.

    with block(network, {0: edges, 1: edges}):          # before the softmax; the fused kernel keeps running
        logits = network(**batch.inputs()).logits
    with scale(network, {0: factors}):                  # after the softmax
        logits = network(**batch.inputs()).logits
    with record(network) as weights:                    # layer -> (B, H, Q, K)
        network(**batch.inputs())
    with record_rows(network, batch.last) as rows:      # layer -> (B, H, K); the fused kernel keeps running
        network(**batch.inputs())
    with record_keys_and_values(network) as memory:     # layer -> Memory; the fused kernel keeps running
        network(**batch.inputs())
    with flows(network, sink):                          # sink gets |sum over heads of A * dL/dA|, layer by layer
        loss(network(**batch.inputs())).backward()

``block`` is a mask, ``record_rows`` computes one row per prompt, ``record_keys_and_values`` none, and ``flows`` a few rows at a
time, so none of them keeps an attention matrix. The others need the matrices: while one of them is open, each attention module
computes by :func:`icl_lens.attention.kernels.attend` instead of the fused kernel.

A forward pass has Q queries and K keys. They are the same positions, except after a prefix that prompts share
(:mod:`icl_lens.models.prefixes`), where the queries are the last Q of the K positions.
"""
