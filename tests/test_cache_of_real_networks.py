"""Networks of the model libraries: a shuffled run with a cache has the bits of one without.

They are small, and in the slow tests (`make cache`) ResNet-50 and ERNIE base at full size. Batches
come from the frameworks' own loaders with two workers; texts are padded to the longest one of their
batch.
"""

import numpy as np
import pytest

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision
from tests.support import cached_nets as nets

import_torchvision()
ROWS, SIZE = 16, 4
PICTURES = np.random.default_rng(0).standard_normal((ROWS, 3, 32, 32)).astype("float32")
LENGTHS = np.array([16, 12] * (ROWS // 2))
TEXTS = np.random.default_rng(1).integers(5, 50, (ROWS, 16))
LABELS = np.random.default_rng(2).integers(0, 2, ROWS)
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}


@pytest.fixture
def fw(framework):
    return nets.framework_of(framework)


def picture_net(fw):
    if fw.name == "torch":
        from torchvision.models import resnet18

        return resnet18(num_classes=3)
    from paddle.vision.models import resnet18

    return resnet18(num_classes=3)


def text_net(fw):
    if fw.name == "torch":
        from transformers import BertConfig, BertForSequenceClassification

        return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))
    from paddlenlp.transformers import ErnieConfig, ErnieForSequenceClassification

    return ErnieForSequenceClassification(ErnieConfig(**SIZES, num_labels=3))


def large(fw, kind):
    """ResNet-50, or ERNIE base."""
    from examples.ernie import models as ernie
    from examples.resnet import models as resnet

    made = {"pictures": (resnet.torch_resnet50, resnet.paddle_resnet50),
            "texts": (ernie.torch_ernie, ernie.paddle_ernie)}  # fmt: skip
    return made[kind][fw.name != "torch"]()


def buckets(epoch):
    """Batches of rows of one length each, shuffled within and among them."""
    draw, batches = np.random.default_rng(epoch), []
    for length in np.unique(LENGTHS):
        rows = draw.permutation(np.flatnonzero(length == LENGTHS))
        batches += np.split(rows, len(rows) // SIZE)
    return [batches[n].tolist() for n in draw.permutation(len(batches))]


def mixed(epoch):
    """Batches of rows of any lengths, shuffled: the same row is padded to one length or another."""
    rows = np.random.default_rng(epoch).permutation(ROWS)
    return np.split(rows, ROWS // SIZE)


class Samples:
    """The data, one by one."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        if self.kind == "pictures":
            return PICTURES[row], LABELS[row]
        return TEXTS[row, : LENGTHS[row]], LABELS[row]


def padded(samples):
    """One batch: texts are padded to the longest, with a mask."""
    inputs, labels = zip(*samples, strict=True)
    if inputs[0].ndim > 1:
        return np.stack(inputs), np.array(labels)
    longest = max(map(len, inputs))
    ids = np.stack([np.pad(row, (0, longest - len(row))) for row in inputs])
    return ids, (ids > 0).astype("int64"), np.array(labels)


def loader(fw, kind, order):
    if fw.name == "torch":
        from torch.utils.data import DataLoader

        return DataLoader(Samples(kind), batch_sampler=order, collate_fn=padded, num_workers=2)
    from paddle.io import DataLoader, Dataset

    class Rows(Samples, Dataset):
        pass

    return DataLoader(
        Rows(kind), batch_sampler=order, collate_fn=padded, num_workers=2, return_list=True
    )


def run(fw, model, handle, kind, order, block, epochs=3):
    optimizer = handle.optimizer(fw.AdamW, lr=1e-3)
    fw.seed(3)
    losses, gradients = [], []
    with block as cached:
        for epoch in range(epochs):
            model.train()
            for *inputs, labels in loader(fw, kind, order(epoch)):
                tensors = [fw.tensor(np.asarray(part)) for part in inputs]
                if kind == "pictures":
                    result = model(*tensors)
                else:
                    result = model(tensors[0], attention_mask=tensors[1])
                logits = getattr(result, "logits", result)
                loss = fw.nn.functional.cross_entropy(logits, fw.tensor(np.asarray(labels)))
                loss.backward()
                grads = [p.grad for p in model.parameters()]
                gradients.append([None if g is None else g.numpy().copy() for g in grads])
                optimizer.step()
                fw.clear(optimizer)
                losses.append(float(loss))
    return losses, gradients, nets.values_of(model), cached


class Nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        pass


def small(fw, kind):
    return picture_net(fw) if kind == "pictures" else text_net(fw)


def both(fw, kind, rule, order, make=small):
    fw.seed(0)
    model = make(fw, kind)
    plan = uf.FreezePlan.from_yaml(f'unifreeze: 1\ndropout: off\nrules: [{{only: "{rule}"}}]\n')
    start = nets.values_of(model)
    runs = []
    for cached in (False, True):
        fw.load(model, {name: fw.tensor(value) for name, value in start.items()})
        handle = plan.apply(model)
        block = handle.cached() if cached else Nothing()
        runs.append(run(fw, model, handle, kind, order, block))
        handle.verify()
        handle.remove()
    return runs


@pytest.mark.parametrize("rule", ["head", "head | layer4"])
def test_pictures(fw, rule):
    plain, cached = both(fw, "pictures", rule, mixed)
    assert nets.same(plain, cached)
    assert (cached[3].counts.misses, cached[3].counts.hits) == (ROWS, 2 * ROWS)


@pytest.mark.parametrize("rule", ["head", "head | blocks[-1]"])
def test_texts_in_buckets(fw, rule):
    plain, cached = both(fw, "texts", rule, buckets)
    assert nets.same(plain, cached)
    assert (cached[3].counts.misses, cached[3].counts.hits) == (ROWS, 2 * ROWS)


def test_texts_that_are_padded_to_the_longest_of_their_batch(fw):
    plain, cached = both(fw, "texts", "head | blocks[-1]", mixed)
    assert nets.same(plain, cached)  # the batch size repeats, and so do the padded lengths
    assert cached[3].counts.hits > 0


FULL_SIZE = {
    "pictures": ("head", "head | layer4"),
    "texts": ("classifier", "head | blocks[-2:]"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rule"), [(k, rule) for k, rules in FULL_SIZE.items() for rule in rules]
)
def test_networks_at_full_size(fw, kind, rule):
    """Three epochs, shuffled; texts are padded to one length or another."""
    plain, cached = both(fw, kind, rule, mixed, large)
    assert nets.same(plain, cached)
    assert cached[3].counts.hits >= ROWS
