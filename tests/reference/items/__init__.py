"""Values of whole figures and tables, computed from their definitions alone: from prompts and a model to each row of a CSV.

The other modules in :mod:`tests.reference` compute what a study measures for one prompt. The modules here repeat what follows
in the package: which rows an item shows, and how values are averaged and compared over prompts, demonstration sets (seeds) and
tasks. They use plain loops over one prompt at a time, and share no code with the package's studies, statistics and report. They
read the prompts files of a run, its configuration and the model. :mod:`.draws` is the exception: it returns the random choices
of the package (which random tokens, which orders), because these are inputs of the computation, like the prompts.

    =================  =========================================================================================
    ``inputs``         prompts, tokens and models of a run
    ``draws``          random choices of the package
    ``averages``       means, shares, correlations and AUCs by plain loops
    ``anchors`` ...    one function per item: the rows of its CSV
    ``comparison``     comparison with a CSV that the workflow wrote
    ``cases``          the configurations that are compared, and the list of items
    =================  =========================================================================================

``benchmarks/artifacts.py`` runs the workflow and compares all items. Confidence intervals are not compared.
"""
