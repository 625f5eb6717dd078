"""timm's bases without their heads."""

import timm
from timm.models import reparameterize_model
from torch import nn


class Base(nn.Module):
    """A model's features; its tensors have timm's names."""

    def __init__(self, name):
        super().__init__()
        self.model = timm.create_model(name, pretrained=False, num_classes=0)
        if name.startswith("mobilenetv3"):
            # It works on the pooled features and belongs to a head.
            del self.model.conv_head

    def forward(self, images):
        return self.model.forward_features(images)

    def fused(self):
        """The same with RepVGG's branches added up."""
        self.model = reparameterize_model(self.model)
        return self
