"""The embedded model: a small decoder-only transformer that learns in context, and how it is made.

It is trained from scratch on made-up classification episodes whose label words change from prompt to prompt, so that only
the demonstrations can tell it the answer. One module, one reason to change:

* :mod:`~icl_lens.organism.vocabulary`: the words that must each be one token (label pool, made-up topics);
* :mod:`~icl_lens.organism.tokenizer`: a byte-level tokenizer that holds those words and can encode anything else;
* :mod:`~icl_lens.organism.topics`: what the texts of an episode are about, as tensors of token ids;
* :mod:`~icl_lens.organism.episodes`: prompts in the paper's format, assembled as tensors;
* :mod:`~icl_lens.organism.architecture`: the transformer and where its weights start from;
* :mod:`~icl_lens.organism.recipe`: the config, the curriculum and the material of the training;
* :mod:`~icl_lens.organism.optimisation`: the loss and the loop;
* :mod:`~icl_lens.organism.evaluation`: the measures of the model card, which :mod:`~icl_lens.organism.card` writes;
* :mod:`~icl_lens.organism.training`: the command, ``python -m icl_lens.organism.training --out FOLDER``.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the embedded model; ``AutoModelForCausalLM.from_pretrained(CHECKPOINT)`` loads it."""
