"""An epoch of the linear protocol: bit for bit what torch.nn.Linear and torch.optim.SGD do."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from crrl.reference.linear import linear_epoch


def test_it_is_the_loop_of_torch_bit_for_bit() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(23, 7), torch.randint(0, 3, (23,))
    classifier = nn.Linear(7, 3)
    mine = classifier.weight.detach().clone(), classifier.bias.detach().clone()
    momenta = torch.zeros(3, 7), torch.zeros(3)
    optimizer = SGD(classifier.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        order = torch.randperm(23)
        for index in torch.split(order, 5):  # the last batch has 3 clips
            loss = F.cross_entropy(classifier(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        linear_epoch(features, labels, order, 5, mine, momenta, 0.1, 0.9)
    assert torch.equal(mine[0], classifier.weight)
    assert torch.equal(mine[1], classifier.bias)


def test_inputs_keep_no_graph_and_parameters_stay_in_place() -> None:
    features = torch.randn(4, 2)
    parameters = torch.zeros(2, 2), torch.zeros(2)
    addresses = [parameter.data_ptr() for parameter in parameters]
    momenta = torch.zeros(2, 2), torch.zeros(2)
    linear_epoch(features, torch.tensor([0, 1, 0, 1]), torch.tensor([3, 1]), 2, parameters, momenta, 0.5, 0.9)
    assert [parameter.data_ptr() for parameter in parameters] == addresses
    assert not any(parameter.requires_grad for parameter in parameters)
    assert parameters[1].abs().sum() > 0
