"""One plan file on the two ports of ERNIE, which call their layers by different names."""

from pathlib import Path

from paddlenlp.transformers import ErnieConfig as PaddleConfig
from paddlenlp.transformers import ErnieForSequenceClassification as PaddleErnie
from transformers import ErnieConfig, ErnieForSequenceClassification

import unifreeze as uf

sizes = {"vocab_size": 1000, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
sizes |= {"type_vocab_size": 4}  # the two libraries have different defaults; parity would tell you
torch_ernie = ErnieForSequenceClassification(ErnieConfig(**sizes))
paddle_ernie = PaddleErnie(PaddleConfig(**sizes))

plan = uf.FreezePlan.load(Path(__file__).parent / "top_layers.yaml")
print(plan.resolve(torch_ernie))
print(uf.check_parity(plan, torch_ernie, paddle_ernie, batch="input_ids=int64[2,16]<1:1000>"))
