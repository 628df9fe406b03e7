"""Study ``icl``: the prediction of the model for each prompt."""
