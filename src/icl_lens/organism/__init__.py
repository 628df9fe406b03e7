"""The embedded model: a small decoder-only transformer that learns in context, and how it is made.

It is trained from scratch on classification episodes whose label words change from prompt to prompt, so that only the
demonstrations can tell it the answer. One module, one reason to change:

* :mod:`~icl_lens.organism.recipe`: the keys of the config, and what they mean;
* :mod:`~icl_lens.organism.vocabulary`: label words, templates and made-up topics, as strings;
* :mod:`~icl_lens.organism.tokenizer`: a byte-level tokenizer that holds those words and can encode anything else;
* :mod:`~icl_lens.organism.topics`: what the texts of an episode are about, as tensors of token ids;
* :mod:`~icl_lens.organism.episodes`: prompts in many templates, drawn and assembled as tensors;
* :mod:`~icl_lens.organism.material`: all that episodes are drawn from, built from corpora and recipe;
* :mod:`~icl_lens.organism.architecture`: the transformer and where its weights start from;
* :mod:`~icl_lens.organism.optimisation`: the loss and the loop;
* :mod:`~icl_lens.organism.training`: a training from start to end, or from where it was stopped (``icl-lens training``);
* :mod:`~icl_lens.organism.evaluation`: what a model can do, in numbers (``icl-lens evaluation``);
* :mod:`~icl_lens.organism.card`: the model card (``icl-lens card``).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the embedded model; ``AutoModelForCausalLM.from_pretrained(CHECKPOINT)`` loads it."""
