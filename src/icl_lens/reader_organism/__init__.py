"""The second embedded model: a small decoder-only transformer trained on lists of points and short stories.

It is the default model of the representation change study. That study has two tasks
(:mod:`icl_lens.studies.representation_change.lines`, :mod:`icl_lens.studies.representation_change.reading`) on which the
embedded model of the other studies was not trained. In the training prompts, the answer follows one of several rules, one rule
per prompt. Only the examples in the prompt determine the rule; without examples, the model has to guess.

* :mod:`~icl_lens.reader_organism.recipe`: the training settings;
* :mod:`~icl_lens.reader_organism.material`: sampling of the training prompts;
* :mod:`~icl_lens.reader_organism.training`: the loss and the training loop (``icl-lens reader-training``);
* :mod:`~icl_lens.reader_organism.card`: the errors with and without examples at each checkpoint, and the model card
  (``icl-lens reader-card``).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the model; ``AutoModelForCausalLM.from_pretrained(CHECKPOINT)`` loads it."""
