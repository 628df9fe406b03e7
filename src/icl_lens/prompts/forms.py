"""Options of how a prompt is written for a model. This module does not import torch."""

from __future__ import annotations

from typing import Literal

# Whether to prepend the BOS token to a prompt; "auto" follows the default behaviour of the tokenizer.
Bos = Literal["auto"] | bool

# Whether to write a prompt with the tokenizer's chat template: False for plain text; True for one turn of the user with the
# demonstrations and the query; "turns" for one turn of the user and one of the assistant per demonstration.
Chat = Literal["turns"] | bool

# How the score of a class is computed: from the first token of its label word, or from all its tokens.
Score = Literal["first", "whole"]

# Which tokens of each demonstration's label word are its anchors: the first, the last, or all of them.
Anchor = Literal["first", "last", "all"]
