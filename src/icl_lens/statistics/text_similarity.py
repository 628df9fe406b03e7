"""Cosine similarity of TF-IDF vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer


def tf_idf_cosines(pairs: Sequence[tuple[str, Sequence[str]]], corpus: Sequence[str]) -> list[np.ndarray]:
    """Compute cosines of TF-IDF vectors: the weight of a word is its count in the text times ln((1 + n) / (1 + df)) + 1.

    Words are runs of letters, digits and underscores, in lower case.

    Args:
        pairs: N pairs of a query's text and its demonstrations' texts.
        corpus: The n texts in which df, the number of texts with a word, is counted. A word that is in none of them has df = 0.
            If the corpus
            is empty, the texts of the pairs are used.

    Returns:
        For each pair, the cosines with its demonstrations, shape (D,) each; 0 for a text without words.
    """
    texts = distinct_texts(pairs)
    # CountVectorizer raises an error if no text contains a word, so one is added.
    counter = CountVectorizer(token_pattern=r"\w+").fit([*corpus, *texts, "word"])
    vectors = TfidfTransformer().fit(counter.transform(corpus or texts)).transform(counter.transform(texts))
    row_of_text = {text: row for row, text in enumerate(texts)}
    queries = vectors[[row_of_text[query] for query, demonstrations in pairs for _ in demonstrations]]
    demos = vectors[[row_of_text[text] for _, demonstrations in pairs for text in demonstrations]]
    ends = np.cumsum([len(demonstrations) for _, demonstrations in pairs])
    return np.split(queries.multiply(demos).sum(1).A1, ends[:-1])


def distinct_texts(pairs: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the distinct texts of all pairs."""
    return list(dict.fromkeys(text for query, demonstrations in pairs for text in (query, *demonstrations)))
