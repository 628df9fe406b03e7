"""The one exception a person meets when what they gave cannot be used."""


class InputError(Exception):
    """Bad input (config, data, model, artifact): one sentence that says what is wrong, where, and what to do.

    The command line and the workflow print the sentence and stop without a traceback; anything else that is raised is a
    defect of icl-lens and keeps its traceback.
    """
