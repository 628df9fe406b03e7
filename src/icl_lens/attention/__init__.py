"""Access to attention: block edges, scale weights, record weights, and measure information flow.

The package provides context managers, and one function that stops the forward pass early
(:func:`icl_lens.attention.keys_and_values.queries_and_keys`). They work for all supported model families
(:func:`icl_lens.attention.supported.require_supported`). Outside them a model is unchanged.

    with block(network, {0: edges, 1: edges}):          # before the softmax; the fused kernel keeps running
        logits = network(**batch.inputs()).logits
    with scale(network, {0: factors}):                  # after the softmax
        logits = network(**batch.inputs()).logits
    with record(network) as weights:                    # layer -> (B, H, Q, K)
        network(**batch.inputs())
    with record_rows(network, batch.last) as rows:      # layer -> (B, H, K); the fused kernel keeps running
        network(**batch.inputs())
    with record_keys_and_values(network) as memory:     # layer -> KeysAndValues; the fused kernel keeps running
        network(**batch.inputs())
    with flows(network, sink):                          # sink gets |sum over heads of A * dL/dA|, layer by layer
        loss(network(**batch.inputs())).backward()

``block`` changes the mask. ``record_rows`` computes one row per prompt, ``record_keys_and_values`` computes no rows, and
``flows`` computes a few rows at a time. None of these four keeps an attention matrix. The other context managers need the
matrices: while one of them is open, each attention module uses :func:`icl_lens.attention.kernels.attend` instead of the fused
kernel.

A forward pass has Q queries and K keys. They are the same positions, except after a shared prefix
(:mod:`icl_lens.models.prefixes`). In that case the queries are the last Q of the K positions.
"""
