"""Information flow by saliency in each layer."""
