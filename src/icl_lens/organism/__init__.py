"""The embedded model: a small decoder-only transformer that learns in context, and the code that trains it.

The model is trained from scratch on classification episodes. The label words change from prompt to prompt, so that only the
demonstrations determine the answer. Each module has a single responsibility:

* :mod:`~icl_lens.organism.recipe`: the config keys and their meaning;
* :mod:`~icl_lens.organism.vocabulary`: label words, templates and made-up topics, as strings;
* :mod:`~icl_lens.organism.tokenizer`: a byte-level tokenizer that contains these words and can encode any other text;
* :mod:`~icl_lens.organism.topics`: the topics of an episode's texts, as tensors of token ids;
* :mod:`~icl_lens.organism.episodes`: sampling of prompts in many templates, assembled as tensors;
* :mod:`~icl_lens.organism.material`: the tokenizer, topics, templates and label words from which episodes are sampled, built
  from the corpora and the recipe;
* :mod:`~icl_lens.organism.architecture`: the transformer and its initial weights;
* :mod:`~icl_lens.organism.optimisation`: the loss and the training loop;
* :mod:`~icl_lens.organism.training`: a complete training run, which can be resumed (``icl-lens training``);
* :mod:`~icl_lens.organism.evaluation`: evaluation of the checkpoints (``icl-lens evaluation``);
* :mod:`~icl_lens.organism.card`: the model card (``icl-lens card``).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the embedded model; ``AutoModelForCausalLM.from_pretrained(CHECKPOINT)`` loads it."""
