"""Study ``ch_saliency``: attributions of the loss to attention edges, compared with the effect of cutting the edges."""
