"""Study ``saliency``: information flow by saliency in each layer (Figure 3)."""
