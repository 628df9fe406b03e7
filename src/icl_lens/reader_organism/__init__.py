"""The second model that is shipped: a small decoder-only transformer that reads lists of points and short stories.

It is the default model of the study of representation change, whose two tasks
(:mod:`icl_lens.studies.representation_change.lines`, :mod:`icl_lens.studies.representation_change.reading`) the embedded model
of the other studies has never seen. In its training the same words are completed by several rules, one a prompt, so that only
the examples in the prompt can tell it which: without examples it has to guess.

* :mod:`~icl_lens.reader_organism.recipe`: how it is trained;
* :mod:`~icl_lens.reader_organism.material`: the prompts that it is trained on, drawn and written;
* :mod:`~icl_lens.reader_organism.training`: the loss and the loop (``icl-lens reader-training``);
* :mod:`~icl_lens.reader_organism.card`: its errors with and without examples at each checkpoint, and the model card
  (``icl-lens reader-card``).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the model; ``AutoModelForCausalLM.from_pretrained(CHECKPOINT)`` loads it."""
