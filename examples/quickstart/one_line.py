"""Freeze a part of BERT in one line, train a step, and check that it held."""

import torch
from transformers import BertConfig, BertForSequenceClassification

import unifreeze as uf

model = BertForSequenceClassification(BertConfig(num_hidden_layers=4))
handle = uf.freeze(model, "embeddings | blocks[:2]")  # the embeddings and the first two layers
optimizer = handle.optimizer(torch.optim.AdamW, lr=5e-5, weight_decay=0.01)

model.train()
model(torch.randint(0, 1000, (2, 16)), labels=torch.tensor([0, 1])).loss.backward()
optimizer.step()

print(handle)
print(handle.verify())  # raises if anything frozen has changed, and names it
