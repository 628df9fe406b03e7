"""Study ``ch_demonstrations``: how much each demonstration contributes to a prediction."""
